import { joinPath, tempDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import {
  constant,
  dequantizeMatrix,
  describeQuantization,
  partName,
  type QuantizedMatrix,
  quantizedWeight,
  requantizeMatrix,
  type Value,
} from "../graph/index.js";
import {
  type AnyModel,
  type Inputs,
  type Model,
  probeOutputs,
  replacedProducts,
  rewriteOutputs,
  type Site,
  sitesOf,
} from "../models/index.js";
import {
  type LazyTensor,
  openSafetensors,
  type Tensor,
  tensor,
  toFloat32,
  writeSafetensors,
} from "../tensor/index.js";
import type { Adapted } from "./adapted.js";
import type { Adapter } from "./adapter.js";
import { oriented } from "./adapter.js";
import type { Calibration } from "./calibration.js";
import { changesOf, type TensorChange } from "./effective.js";
import { plainFields } from "./fields.js";
import { inverseRoot } from "./inverse-root.js";
import { mergedTensor } from "./merged-tensor.js";
import { mergeReceipt, type QuantizedMergeReport, type Receipted, type RequantizedSite } from "./receipt.js";
import { reweighted } from "./reweighted.js";
import { floatsOfSite, storedMatrix } from "./stored-matrix.js";

export interface QuantizedMergeOptions {
  /**
   * What becomes of a change to quantised weights. No default: `keep` leaves them as they are and fixes the adapter beside
   * them, exact; `requantize` rounds the merged weights again, and the receipt says what that lost; `dequantize` gives a
   * model of floats, exact.
   */
  readonly quantized?: QuantizedMergeReport["mode"] | undefined;
  /**
   * Covariances of the sites' inputs (`calibrate` with `covariance`) for `requantize`: rounding errors then go where data say
   * they matter least (GPTQ, arXiv 2210.17323). Without, every weight goes to the nearest number.
   */
  readonly calibration?: Calibration | undefined;
}

/** A merge into a base with quantised weights; undefined when no weight it changes is one. */
export async function mergeQuantized<M extends Model>(
  model: Adapted<M>,
  used: readonly Adapter[],
  options: QuantizedMergeOptions & { readonly allowNoEffect?: boolean },
): Promise<(M & Receipted) | undefined> {
  const outputs = probeOutputs(model.base);
  const stored = new Map(
    sitesOf(outputs).flatMap((site) => (site.stored ? [[site.path, site] as const] : [])),
  );
  const all = changesOf(outputs, used);
  const changed = all.filter(({ path, leaf }) => leaf === "weight" && stored.has(path));
  if (changed.length === 0) return undefined;
  const { quantized: mode } = options;
  if (!mode) throw mustChoose(changed, model.base);
  const merging: Merging<M> = { model, used, stored, all };
  const { merged, sites } = await MODES[mode](merging, options);
  const report = { mode, settings: settingsOf(model.base, stored), sites };
  const receipt = await mergeReceipt(model, merged, {
    allowNoEffect: options.allowNoEffect,
    quantized: report,
  });
  return { ...merged, receipt } as unknown as M & Receipted;
}

function mustChoose(changed: readonly TensorChange[], base: Model): TunesmithError {
  const [first] = changed;
  const kind = base.quantization ? `, ${describeQuantization(base.quantization.settings)}` : "";
  return new TunesmithError(
    "quantized-base",
    `${changed.length} of the weights to merge into are quantised (${first?.path}${kind}): adding to them means rounding`,
    {
      fix: 'merge(model, { quantized: "keep" }) leaves the adapter beside them, "requantize" rounds again and reports the loss, "dequantize" gives float weights; on the command line --quantized',
      details: { paths: changed.map(({ path }) => path) },
    },
  );
}

const settingsOf = (base: Model, stored: ReadonlyMap<string, Site>): string =>
  base.quantization
    ? describeQuantization(base.quantization.settings)
    : [...new Set([...stored.values()].map(({ stored: how }) => how?.codes.dtype))].join(", ");

interface Merging<M extends Model> {
  readonly model: Adapted<M>;
  readonly used: readonly Adapter[];
  /** Quantised sites by module path. */
  readonly stored: ReadonlyMap<string, Site>;
  readonly all: readonly TensorChange[];
}

interface Outcome {
  readonly merged: Model;
  readonly sites: readonly RequantizedSite[];
}

type Mode = (merging: Merging<Model>, options: QuantizedMergeOptions) => Promise<Outcome>;

/** The adapter's tensors become constants of the graph, as they are now. */
const keep: Mode = async ({ model }) => {
  const own = [...model.parameters.values()].filter(({ name }) => !model.base.parameters.has(name));
  const replace = new Map(
    own.map(({ value, tensor: live, name }) => {
      const copy = { ...live, data: live.data.slice() } as Tensor;
      return [value, constant(copy, name)] as const;
    }),
  );
  const below: AnyModel = model;
  const merged = {
    ...plainFields(model),
    weights: new Map([
      ...model.base.weights,
      ...[...replace.values()].map((value) => [String(value.name), value] as const),
    ]),
    parameters: model.base.parameters,
    trainingHooks: model.base.trainingHooks,
    build: (inputs: Inputs) => rewriteOutputs(below.build({ ...inputs, training: false }), { replace }),
  };
  return { merged: merged as unknown as Model, sites: [] };
};

/** Changed weights as they are after the merge, `[out, in]`. */
async function changedFloats(
  { model, used }: Merging<Model>,
  change: TensorChange,
  site: Site,
): Promise<Float32Array> {
  return oriented(site, toFloat32(await mergedTensor(change, used, model.base)));
}

/** Constants for what is not quantised, under the keys of `reweighted`. */
async function plainChanges({ model, used, stored, all }: Merging<Model>): Promise<Map<string, Value>> {
  const changes = new Map<string, Value>();
  for (const change of all) {
    if (change.leaf === "weight" && stored.has(change.path)) continue;
    const name = `${change.path}.${change.leaf}`;
    changes.set(
      `${change.path}/${change.leaf}`,
      constant(await mergedTensor(change, used, model.base), name),
    );
  }
  return changes;
}

/** Every quantised product becomes one of floats; weights go to a temporary file one at a time. */
const dequantize: Mode = async (merging) => {
  const { model, stored, all } = merging;
  const target = (model.base.quantization?.base ?? model.base) as Model;
  const homes = new Map(sitesOf(probeOutputs(target)).map((site) => [site.path, site] as const));
  const changed = new Map(
    all.flatMap((change) => (change.leaf === "weight" ? [[change.path, change] as const] : [])),
  );
  const entries = [...stored.values()].flatMap((site): [string, LazyTensor][] => {
    const change = changed.get(site.path);
    // A product in integers that nothing changes stays one.
    if (!change && site.stored?.form === "integer-product") return [];
    const home = homes.get(site.path) as Site;
    const shape = home.weight.shape as number[];
    const load = async () => {
      const floats = change
        ? await changedFloats(merging, change, site)
        : oriented(site, await floatsOfSite(site));
      return tensor("float32", shape, asFile(home, floats));
    };
    return [[site.path, { dtype: "float32", shape, load }]];
  });
  const path = joinPath(await tempDir("tunesmith-f32-", { untilExit: true }), "model.safetensors");
  await writeSafetensors(path, entries);
  const file = await openSafetensors(path);
  const changes = await plainChanges(merging);
  for (const [sitePath, ref] of file.entries)
    changes.set(`${sitePath}/weight`, constant(ref, homes.get(sitePath)?.weightName ?? `${sitePath}.weight`));
  return { merged: reweighted(target, changes), sites: [] };
};

/** `[out, in]` as the site's file has it. */
function asFile(
  { orientation, outFeatures: rows, inFeatures: columns }: Site,
  floats: Float32Array,
): Float32Array {
  if (orientation === "out-in") return floats;
  const out = new Float32Array(floats.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = floats[row * columns + column] as number;
  return out;
}

/** Merged weights rounded again, one module after the other. */
const requantize: Mode = async (merging, { calibration }) => {
  const { model, stored, all } = merging;
  const matrices = new Map<string, QuantizedMatrix<Value>>();
  const sites: RequantizedSite[] = [];
  for (const change of all) {
    const site = change.leaf === "weight" ? stored.get(change.path) : undefined;
    if (!site) continue;
    checkRoundable(site);
    const target = await changedFloats(merging, change, site);
    const before = oriented(site, await floatsOfSite(site));
    const old = await storedMatrix(model.base, site);
    const { matrix, changed } = requantizeMatrix(old, target, await factorFor(site, calibration));
    sites.push({
      path: site.path,
      unchanged: changed === 0,
      ...lossOf(before, target, dequantizeMatrix(matrix)),
    });
    matrices.set(site.path, asConstants(matrix, site.weightName));
  }
  const below: AnyModel = reweighted(model.base, await plainChanges(merging));
  const named = [...matrices].map(
    ([path, matrix]) => [String(stored.get(path)?.weightName), quantizedWeight(matrix)] as const,
  );
  // Adapters of the float base fit this one no longer: it is a model of its own.
  const { quantization: _, ...fields } = below;
  const merged = {
    ...fields,
    weights: new Map([...below.weights, ...named]),
    build: (inputs: Inputs) => rewriteOutputs(below.build(inputs), { visit: replacedProducts(matrices) }),
  };
  return { merged: merged as unknown as Model, sites };
};

function checkRoundable({ path, kind, stored }: Site): void {
  if (kind === "linear" && stored?.form === "float-product") return;
  throw new TunesmithError(
    "target-unsupported",
    `${path} is a quantised ${kind} that cannot be rounded again`,
    {
      fix: 'use { quantized: "keep" }, or "dequantize"',
      details: { path },
    },
  );
}

/** What rounding errors are weighed by; undefined without data. */
async function factorFor(
  site: Site,
  calibration: Calibration | undefined,
): Promise<Float64Array | undefined> {
  if (!calibration) return undefined;
  const covariance = await calibration.statistic(site.path, "covariance");
  if (covariance) return inverseRoot(covariance, site.inFeatures);
  throw new TunesmithError("calibration-missing", `the calibration has no covariance of ${site.path}`, {
    fix: 'collect it: calibrate(objective, { statistics: ["covariance"] })',
    details: { path: site.path },
  });
}

/** What rounding did to a change. */
function lossOf(
  before: Float32Array,
  target: Float32Array,
  now: Float32Array,
): Pick<RequantizedSite, "relativeError" | "survived"> {
  let [error, size, wanted, made] = [0, 0, 0, 0];
  for (let at = 0; at < target.length; at++) {
    const [old, goal, got] = [before[at] as number, target[at] as number, now[at] as number];
    error += (got - goal) ** 2;
    size += goal ** 2;
    wanted += (goal - old) ** 2;
    made += (goal - old) * (got - old);
  }
  return { relativeError: Math.sqrt(error / (size || 1)), survived: wanted > 0 ? made / wanted : 1 };
}

const asConstants = (matrix: QuantizedMatrix<Tensor>, name: string): QuantizedMatrix<Value> => ({
  ...matrix,
  parts: Object.fromEntries(
    Object.entries(matrix.parts).map(([part, data]) => [part, constant(data, partName(name, part))] as const),
  ),
});

const MODES: Readonly<Record<QuantizedMergeReport["mode"], Mode>> = { keep, requantize, dequantize };
