import { TunesmithError } from "../errors/index.js";
import { staticShape, type Value } from "../graph/index.js";
import { noiseOf, parameterFeeds } from "../models/index.js";
import { createSession, type Session, type SessionOptions } from "../runtime/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { prefixGraphs, SCALE, SHARE, type StepGraph, stepGraph } from "./graph.js";
import type { Objective, StepBatch, StepShape } from "./objective.js";
import type { Params } from "./optim/index.js";
import { type PrefixCache, prefixCache } from "./prefix-cache.js";

export interface StepperOptions {
  /** Seed of dropout. Default 0. */
  readonly seed?: number;
  readonly session?: SessionOptions;
  /**
   * Recompute activations in the backward pass instead of keeping them: of all blocks, or of so many from the first.
   * Default false.
   */
  readonly recompute?: boolean | number;
  /** Rows of logits that exist at one time. Default: the objective's. */
  readonly chunkRows?: number | undefined;
  /**
   * Keep activations below the first trained block from epoch 2 on; the most bytes to hold in memory. It needs the same
   * rows every epoch and is not used when nothing below is frozen. Default 0: none.
   */
  readonly prefixCacheBytes?: number;
  /** The most bytes of them to hold in a temporary file, for rows beyond those in memory. Default 0: none. */
  readonly prefixDiskBytes?: number;
}

/** Loss and gradients of one micro-batch. */
export interface StepResult {
  readonly loss: number;
  readonly gradients: Params;
  /** Gradients of the frozen weights that were asked for, by weight name. */
  readonly weights: Params;
}

/** Runs training graphs, one compiled session per batch shape. */
export interface Stepper {
  /**
   * `total` is the number of items of the whole update, so that micro-batches add up to the mean over all of them.
   * `stream` makes the random numbers of this micro-batch its own. `weights` names frozen weights whose gradients are
   * wanted too.
   */
  run(
    batch: StepBatch,
    total: number,
    stream: readonly number[],
    weights?: readonly string[],
  ): Promise<StepResult>;
  readonly cache: PrefixCache | undefined;
  close(): Promise<void>;
}

interface Compiled {
  readonly step: StepGraph;
  readonly session: Session;
  readonly prefix?: {
    readonly session: Session;
    readonly inputs: readonly Value[];
    readonly shape: readonly number[];
  };
}

/**
 * A stepper for an objective: graphs are differentiated and compiled when a batch shape first appears. Close it after use.
 *
 * Throws, at the first run of a shape, `zero-update` (nothing to train, or a parameter that the loss does not depend on) and
 * `op-not-differentiable`.
 */
export function createStepper(objective: Objective, options: StepperOptions = {}): Stepper {
  const { model } = objective;
  const { prefixCacheBytes: memory = 0, prefixDiskBytes: disk = 0, seed = 0 } = options;
  const cache = memory > 0 || disk > 0 ? prefixCache({ memory, disk }) : undefined;
  const sessions = perShape((shape) => compile(objective, shape, options, cache !== undefined, []));
  const probing = new Map<string, PerShape<Compiled>>();
  /** Steps that look at frozen weights are few: they have sessions of their own, closed when the list changes. */
  const sessionsFor = async (weights: readonly string[]) => {
    if (weights.length === 0) return sessions;
    const key = weights.join("\n");
    const known = probing.get(key) ?? perShape((shape) => compile(objective, shape, options, false, weights));
    for (const [other, old] of probing) {
      if (other === key) continue;
      probing.delete(other);
      await release(await old.clear());
    }
    probing.set(key, known);
    return known;
  };
  return {
    cache,
    async run(batch, total, stream, weights = []) {
      checkCount(total);
      const { step, session, prefix } = await (await sessionsFor(weights)).get(batch.shape);
      const feeds: Record<string, Tensor> = {
        ...parameterFeeds(step.graph, model.parameters),
        ...batch.feeds,
        [SCALE]: scalarTensor(1 / total),
        [SHARE]: scalarTensor(batch.count / total),
      };
      if (prefix && cache) feeds.prefix = await prefixOf(prefix, cache, batch);
      addNoise(step, feeds, seed, stream);
      const results = await session.run(onlyRead(step.graph.inputs, feeds));
      const read = (names: readonly string[], prefixed: string) =>
        new Map(names.map((name) => [name, results[`${prefixed}/${name}`]?.data as Float32Array] as const));
      return {
        loss: scalarOf(results.loss),
        gradients: read(
          step.trained.map(({ name }) => name),
          "grad",
        ),
        weights: read(weights, "weight"),
      };
    },
    async close() {
      const all = [sessions, ...probing.values()];
      probing.clear();
      const ready = (await Promise.all(all.map((each) => each.clear()))).flat();
      await closeAll([() => release(ready), cache?.close]);
    },
  };
}

const release = (ready: readonly Compiled[]) =>
  closeAll(ready.flatMap(({ session, prefix }) => [session.release, prefix?.session.release]));

async function compile(
  objective: Objective,
  shape: StepShape,
  { recompute = false, chunkRows, session: how }: StepperOptions,
  cached: boolean,
  weights: readonly string[],
): Promise<Compiled> {
  const parts = cached ? prefixGraphs(objective, shape, { recompute, chunkRows }) : undefined;
  const step = parts?.suffix ?? stepGraph(objective, shape, { recompute, chunkRows, weights });
  const session = await createSession(step.graph, how);
  if (!parts) return { step, session };
  try {
    const { inputs, outputs } = parts.prefix;
    const size = staticShape((outputs.get("prefix") as Value).shape) as readonly number[];
    return {
      step,
      session,
      prefix: { session: await createSession(parts.prefix, how), inputs, shape: size },
    };
  } catch (error) {
    await session.release();
    throw error;
  }
}

function prefixOf(
  { session, inputs, shape }: NonNullable<Compiled["prefix"]>,
  cache: PrefixCache,
  batch: StepBatch,
): Promise<Tensor> {
  const { rows, feeds } = batch;
  const compute = async () => (await session.run(onlyRead(inputs, feeds))).prefix as Tensor;
  // What has no name cannot be found again.
  if (!rows) return compute();
  const key = shapeKey(batch.shape);
  const wanted = {
    names: rows.map((row) => `${key}/${row}`),
    batch: batch.shape.batch as number,
    shape,
  };
  return cache.rows(wanted, compute);
}

const shapeKey = (shape: StepShape): string =>
  Object.entries(shape)
    .map(([axis, size]) => `${axis}=${size}`)
    .join();

/** Sessions made when a shape is first asked for. */
export interface PerShape<T> {
  get(shape: StepShape): Promise<T>;
  /** What was compiled, to be closed; a failure was the business of the run that asked for it. */
  clear(): Promise<T[]>;
}

export function perShape<T>(make: (shape: StepShape) => Promise<T>): PerShape<T> {
  const made = new Map<string, Promise<T>>();
  return {
    get(shape) {
      const key = shapeKey(shape);
      const known = made.get(key) ?? make(shape);
      made.set(key, known);
      return known;
    },
    async clear() {
      const outcomes = await Promise.allSettled(made.values());
      made.clear();
      return outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
    },
  };
}

/** Closes everything, then throws the first failure: one that cannot be closed keeps no other open. */
export async function closeAll(closers: readonly ((() => Promise<void>) | undefined)[]): Promise<void> {
  const outcomes = await Promise.allSettled(closers.map((close) => close?.()));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw failed.reason;
}

/** The value of a scalar result; NaN when it is absent. */
export const scalarOf = (tensor: Tensor | undefined): number => Number(tensor?.data[0] ?? Number.NaN);

const scalarTensor = (value: number): Tensor => tensor("float32", [], Float32Array.of(value));

function checkCount(total: number): void {
  if (total > 0) return;
  throw new TunesmithError("data-invalid", "a step has nothing to learn from: none of its items is trained", {
    fix: "check the loss masks: every example's completion may have been cut off; raise maxLength",
  });
}

/** Fills the random inputs: numbers depend on seed, stream and name alone. */
function addNoise(
  step: StepGraph,
  feeds: Record<string, Tensor>,
  seed: number,
  stream: readonly number[],
): void {
  for (const value of step.graph.inputs) {
    const noise = noiseOf(value);
    if (!noise) continue;
    const shape = value.shape as readonly number[];
    const count = shape.reduce((a, b) => a * b, 1);
    const random = rng(seed, noise.kind === "keep" ? "dropout" : "noise", ...stream, String(value.name));
    const name = String(value.name);
    if (noise.kind === "keep") {
      feeds[name] = tensor("bool", shape, random.fillKeep(new Uint8Array(count), noise.probability));
    } else {
      const numbers = new Float32Array(count);
      if (noise.kind === "normal") random.fillNormal(numbers);
      else random.fillUniform(numbers);
      feeds[name] = tensor("float32", shape, numbers);
    }
  }
}

/** Leaves out what the graph does not read (a suffix may not need ids). */
export const onlyRead = (
  inputs: readonly Value[],
  feeds: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> =>
  Object.fromEntries(
    inputs.flatMap(({ name }) => {
      const feed = feeds[String(name)];
      return feed ? [[String(name), feed] as const] : [];
    }),
  );
