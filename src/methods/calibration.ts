import { vjp } from "../autodiff/index.js";
import { TunesmithError } from "../errors/index.js";
import { makeGraph, ops, reach, type Value } from "../graph/index.js";
import {
  inputsOf,
  type Model,
  parameterFeeds,
  probeOutputs,
  type Site,
  siteOf,
  sitesOf,
  valuesIn,
} from "../models/index.js";
import { createSession, type SessionOptions } from "../runtime/index.js";
import type { Tensor } from "../tensor/index.js";
import type { Objective, StepBatch } from "../training/index.js";
import { oriented } from "./adapter.js";
import type { Statistic } from "./method.js";

/** Statistics of data at the sites of a model. */
export interface Calibration {
  readonly statistics: readonly Statistic[];
  /** Numbers of one site as `Statistic` says; undefined when it was not collected there. */
  statistic(path: string, name: Statistic): Promise<Float32Array | undefined>;
}

export interface CalibrateOptions {
  readonly statistics: readonly Statistic[];
  /** Batches of the objective's training data to look at. Default 16. */
  readonly batches?: number;
  /** Only these sites. Default: every linear map. */
  readonly sites?: (site: Site) => boolean;
  /** Seed of the order of the data. Default 0. */
  readonly seed?: number;
  readonly session?: SessionOptions;
}

const GRADIENTS: readonly Statistic[] = ["gradient", "gradientSquare"];

/**
 * Runs a model over data and collects statistics at its linear maps: what data-driven starts (CorDA, EVA, LoRA-GA) and
 * masks (RoSA, Fisher) are computed from. Inputs of padding do not count. Sums are kept in float64.
 *
 * Throws `target-not-found` when no site is selected, and what running the objective throws.
 *
 * @example
 * ```ts
 * import { adapt, calibrate, lora } from "tunesmith/methods";
 * import type { CausalLm } from "tunesmith/models";
 * import type { Objective } from "tunesmith/training";
 * export async function start(model: CausalLm, objective: Objective) {
 *   const calibration = await calibrate(objective, { statistics: ["covariance"], batches: 8 });
 *   return adapt(model, lora({ rank: 8 }), { calibration });
 * }
 * ```
 */
export async function calibrate(objective: Objective, options: CalibrateOptions): Promise<Calibration> {
  const { statistics, batches = 16, seed = 0 } = options;
  const wanted = wantedSites(objective.model, options.sites);
  const sums = new Map<string, Float64Array>();
  const source = objective.batches({ epoch: 0, step: 0 }, seed);
  let rows = 0;
  for (let at = 0; at < batches; at++) {
    const batch = (await source.next()).value as StepBatch;
    const results = await runBatch(objective, batch, wanted, statistics, options.session);
    rows += Number(results.rows?.data[0]);
    for (const [key, result] of Object.entries(results)) accumulate(sums, key, result);
  }
  return {
    statistics,
    async statistic(path, name) {
      if (name === "rows") return wanted.has(path) ? Float32Array.of(rows) : undefined;
      const sum = sums.get(`${name}/${path}`);
      if (!sum) return undefined;
      const count = GRADIENTS.includes(name) ? batches : rows;
      const mean = Float32Array.from(sum, (value) => value / count);
      const site = wanted.get(path);
      return site && GRADIENTS.includes(name) ? oriented(site, mean) : mean;
    },
  };
}

function wantedSites(model: Model, choose: (site: Site) => boolean = () => true): Map<string, Site> {
  const linear = sitesOf(probeOutputs(model)).filter((site) => site.kind === "linear" && choose(site));
  if (linear.length > 0) return new Map(linear.map((site) => [site.path, site]));
  throw new TunesmithError("target-not-found", "calibration: no linear map is selected", {
    fix: "choose sites that the method will adapt",
  });
}

function accumulate(sums: Map<string, Float64Array>, key: string, { data }: Tensor): void {
  const sum = sums.get(key) ?? new Float64Array(data.length);
  const isSquare = key.startsWith("gradientSquare/");
  for (let at = 0; at < data.length; at++) {
    const value = Number(data[at]);
    sum[at] = (sum[at] as number) + (isSquare ? value * value : value);
  }
  sums.set(key, sum);
}

async function runBatch(
  objective: Objective,
  batch: StepBatch,
  wanted: ReadonlyMap<string, Site>,
  statistics: readonly Statistic[],
  options?: SessionOptions,
): Promise<Record<string, Tensor>> {
  const { loss, passes, mask } = objective.lossGraph(batch.shape, { training: true });
  const outputs: [string, Value][] = [];
  const inputs = new Map<string, Value>();
  for (const node of reach(passes.flatMap(valuesIn)).nodes) {
    const site = siteOf(node);
    if (site && wanted.has(site.path)) inputs.set(site.path, site.input);
  }
  for (const [path, x] of inputs) outputs.push(...inputStatistics(path, x, mask, statistics));
  const [first] = inputs.values();
  outputs.push(["rows", countRows(first as Value, mask)]);
  outputs.push(...weightGradients(loss, batch.count, wanted, statistics));
  return valuesOver(objective, batch, outputs, options);
}

/** Values of a loss graph's passes on one batch. */
export async function valuesOver(
  objective: Objective,
  batch: StepBatch,
  outputs: readonly [string, Value][],
  options?: SessionOptions,
): Promise<Record<string, Tensor>> {
  const graph = makeGraph("values", inputsOf(outputs.map(([, value]) => value)), outputs);
  const session = await createSession(graph, options);
  try {
    const known = { ...parameterFeeds(graph, objective.model.parameters), ...batch.feeds };
    const read = graph.inputs.flatMap(({ name }) => {
      const feed = known[String(name)];
      return feed ? [[String(name), feed] as const] : [];
    });
    return await session.run(Object.fromEntries(read));
  } finally {
    await session.release();
  }
}

const flat = (x: Value): Value => (x.shape.length === 2 ? x : ops.reshape(x, [-1, x.shape.at(-1) ?? 1], [x]));

/** The mask as a column, for activations with a row per token. */
const column = (x: Value, mask: Value | undefined): Value | undefined =>
  mask && flat(x).shape[0] === mask.shape[0] ? ops.unsqueeze(mask, 1) : undefined;

function inputStatistics(
  path: string,
  given: Value,
  mask: Value | undefined,
  statistics: readonly Statistic[],
): [string, Value][] {
  const [x, rows] = [flat(given), column(given, mask)];
  const kept = rows ? ops.mul(x, rows) : x;
  const makers: Partial<Record<Statistic, () => Value>> = {
    covariance: () => ops.gemm(kept, kept, undefined, { transA: true }),
    inputMean: () => ops.reduceSum(kept, [0], false),
    inputMeanAbs: () => ops.reduceSum(ops.abs(kept), [0], false),
  };
  return statistics.flatMap((name): [string, Value][] => {
    const make = makers[name];
    return make ? [[`${name}/${path}`, make()]] : [];
  });
}

const countRows = (x: Value, mask: Value | undefined): Value =>
  column(x, mask) && mask ? ops.reduceSum(mask, undefined, false) : ops.scalar(Number(flat(x).shape[0] ?? 1));

function weightGradients(
  loss: Value,
  count: number,
  wanted: ReadonlyMap<string, Site>,
  statistics: readonly Statistic[],
): [string, Value][] {
  const names = statistics.filter((name) => GRADIENTS.includes(name));
  if (names.length === 0) return [];
  const sites = [...wanted];
  const seed = [{ output: loss, gradient: ops.scalar(1 / count) }];
  const found = vjp(
    seed,
    sites.map(([, site]) => site.weight),
  );
  return sites.flatMap(([path], at) => {
    const gradient = found[at];
    return gradient ? names.map((name): [string, Value] => [`${name}/${path}`, gradient]) : [];
  });
}
