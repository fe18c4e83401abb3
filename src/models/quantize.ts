import { TunesmithError } from "../errors/index.js";
import {
  describeQuantization,
  misfitOf,
  type Node,
  type QuantizationKind,
  type QuantizationOptions,
  type QuantizedMatrix,
  quantizationOf,
  quantizedProduct,
  quantizedWeight,
  quantizeMatrices,
  type Value,
  type Visit,
  withScope,
} from "../graph/index.js";
import { byteLengthOf, elementCount, toFloat32 } from "../tensor/index.js";
import { matchesPath } from "./path-rules.js";
import { probeOutputs } from "./probe.js";
import { rewriteOutputs } from "./rewrite.js";
import { type Site, siteOf, sitesOf } from "./sites.js";
import { frozenTensor, storedOf } from "./stored.js";
import type { AnyModel, Inputs, Model, ModelQuantization } from "./types.js";

/** How a model's linear maps are kept, and which are left as they are. */
export interface QuantizeModelOptions extends QuantizationOptions {
  /** Modules that stay floats: a list of names or endings of paths, or a regular expression over the whole path. */
  readonly exclude?: string | readonly string[] | undefined;
  /** Quantise the output head too. Default false. */
  readonly head?: boolean | undefined;
}

/**
 * The model with the weights of its linear maps in 8 or 4 bits; embeddings, norms, convolutions and (by default) the output
 * head stay floats, as in bitsandbytes. Weights are quantised one at a time into a temporary file, so memory holds one of
 * them. Activations, and adapters trained on it, are float32: gradients pass through the dequantised weights (QLoRA, arXiv
 * 2305.14314), each of which exists as floats only while it is used.
 *
 * What stayed float, and why, stands in `quantization.left`. Throws `config-invalid`, and `target-not-found` when no map
 * is left to quantise.
 *
 * @example
 * ```ts
 * import { adapt, lora } from "tunesmith/methods";
 * import { loadModel, quantizeModel } from "tunesmith/models";
 * const small = await quantizeModel(await loadModel("path/to/model"), { kind: "nf4" });
 * const model = await adapt(small, lora({ rank: 8, targets: "all-linear" }));
 * console.log(model.parameters.size, small.quantization?.keptBytes);
 * ```
 */
export async function quantizeModel<M extends Model>(
  model: M,
  options: QuantizationKind | QuantizeModelOptions,
): Promise<M> {
  const { exclude, head = false, ...wanted } = typeof options === "string" ? { kind: options } : options;
  const settings = quantizationOf(wanted);
  checkPlainBase(model);
  const { chosen, left } = quantizableSites(model, {
    exclude,
    head,
    misfit: (rows, columns) => misfitOf(settings, rows, columns),
  });
  const weights = distinctWeights(chosen);
  const matrices = await quantizeMatrices(weights.map(pendingOf), settings);
  return withQuantizedSites(model, chosen, matrices, { settings, left });
}

/** One site for each weight: several may read the same. */
export const distinctWeights = (sites: readonly Site[]): Site[] => [
  ...new Map(sites.map((site) => [storedOf(site.weight) as Value, site] as const)).values(),
];

/**
 * The model with its sites' products over quantised weights.
 *
 * @param matrices One for each of `distinctWeights(chosen)`, in its order.
 */
export function withQuantizedSites<M extends Model>(
  model: M,
  chosen: readonly Site[],
  matrices: readonly QuantizedMatrix<Value>[],
  what: Pick<ModelQuantization, "settings" | "left" | "own">,
): M {
  const ofWeight = new Map(
    distinctWeights(chosen).map(
      (site, at) => [storedOf(site.weight) as Value, matrices[at] as QuantizedMatrix<Value>] as const,
    ),
  );
  const sites = new Map(
    chosen.map(
      (site) => [site.path, ofWeight.get(storedOf(site.weight) as Value) as QuantizedMatrix<Value>] as const,
    ),
  );
  const below: AnyModel = model;
  const quantization: ModelQuantization = { ...what, base: model, sites, ...bytesOf(matrices) };
  const named = chosen.map(
    (site) => [site.weightName, quantizedWeight(sites.get(site.path) as QuantizedMatrix<Value>)] as const,
  );
  return {
    ...model,
    weights: new Map([...model.weights, ...named]),
    quantization,
    build: (inputs: Inputs) => rewriteOutputs(below.build(inputs), { visit: replacedProducts(sites) }),
  } as M;
}

/** Throws `config-invalid` for a model that is quantised already, or has parameters. */
export function checkPlainBase(model: Model): void {
  if (model.parameters.size === 0 && !model.quantization) return;
  const what = model.quantization
    ? `is quantised already (${describeQuantization(model.quantization.settings)})`
    : "has adapters or unfrozen weights";
  throw new TunesmithError("config-invalid", `the model ${what}`, {
    fix: "quantise the plain base, then adapt it",
  });
}

interface Chosen {
  readonly chosen: readonly Site[];
  readonly left: ModelQuantization["left"];
}

/** Linear maps whose weights can be quantised, and why others cannot. Throws `target-not-found` when none can. */
export function quantizableSites(
  model: Model,
  {
    exclude,
    head,
    misfit,
  }: {
    readonly exclude: QuantizeModelOptions["exclude"];
    readonly head: boolean;
    /** Why a weight of this size cannot be kept, if it cannot. */
    readonly misfit: (rows: number, columns: number) => string | undefined;
  },
): Chosen {
  const sites = sitesOf(probeOutputs(model));
  const tables = new Set(
    sites.filter(({ kind }) => kind === "embedding").map(({ weight }) => storedOf(weight)),
  );
  const reasonOf = (site: Site): string | undefined => {
    if (exclude !== undefined && exclude.length > 0 && matchesPath(site.path, exclude)) return "excluded";
    if (site.stored) return "stored as integers already";
    if (site.isHead && !head) return "the output head";
    if (tables.has(storedOf(site.weight))) return "shared with an embedding";
    if (!isPlainProduct(site.node)) return "a product with factors or a turned input";
    return misfit(site.outFeatures, site.inFeatures);
  };
  const linear = sites.filter(({ kind }) => kind === "linear");
  const judged = linear.map((site) => ({ site, reason: reasonOf(site) }));
  const kept = new Set(judged.flatMap(({ site, reason }) => (reason ? [storedOf(site.weight)] : [])));
  // A weight that stays float at one module stays so everywhere: two copies would save nothing.
  const final = judged.map(({ site, reason }) => ({
    site,
    reason: reason ?? (kept.has(storedOf(site.weight)) ? "shared with a module that stays float" : undefined),
  }));
  const chosen = final.filter(({ reason }) => !reason).map(({ site }) => site);
  const left = final.flatMap(({ site, reason }) => (reason ? [{ path: site.path, reason }] : []));
  if (chosen.length > 0) return { chosen, left };
  const reasons = [...new Set(left.map(({ path, reason }) => `${path}: ${reason}`))].slice(0, 5).join("; ");
  throw new TunesmithError("target-not-found", "no linear map of the model can be quantised", {
    fix: reasons
      ? `left as they are: ${reasons}`
      : "the model has no linear maps: leave out quantize, or the variants q8, q4 and bnb4",
    details: { left },
  });
}

const attr = (node: Node, name: string, fallback: number): number => {
  const found = node.attrs[name];
  if (found && "i" in found) return Number(found.i);
  return found && "f" in found ? found.f : fallback;
};

const isPlainProduct = (node: Node): boolean =>
  node.op === "MatMul" ||
  (attr(node, "transA", 0) === 0 && attr(node, "alpha", 1) === 1 && attr(node, "beta", 1) === 1);

/** A site's weight as floats `[out, in]`, read when its turn comes. */
export const pendingOf = (site: Site) => ({
  name: site.weightName,
  rows: site.outFeatures,
  columns: site.inFeatures,
  async load() {
    const data = toFloat32(await frozenTensor(site.weight));
    if (site.orientation === "out-in") return data;
    const out = new Float32Array(data.length);
    const { outFeatures: rows, inFeatures: columns } = site;
    for (let column = 0; column < columns; column++)
      for (let row = 0; row < rows; row++) out[row * columns + column] = data[column * rows + row] as number;
    return out;
  },
});

function bytesOf(matrices: readonly QuantizedMatrix<Value>[]): { floatBytes: number; keptBytes: number } {
  const lengthOf = ({ dtype, shape }: Value) => byteLengthOf(dtype, elementCount(shape as number[]));
  return {
    floatBytes: matrices.reduce((sum, { rows, columns }) => sum + 4 * rows * columns, 0),
    keptBytes: matrices
      .flatMap(({ parts }) => Object.values(parts))
      .reduce((sum, part) => sum + lengthOf(part), 0),
  };
}

/** Puts quantised products in the place of linear maps, by module path. */
export const replacedProducts =
  (matrices: ReadonlyMap<string, QuantizedMatrix<Value>>): Visit =>
  (node, inputs) => {
    const site = siteOf(node);
    const matrix = site?.kind === "linear" ? matrices.get(site.path) : undefined;
    if (!site || !matrix || site.outFeatures !== matrix.rows || site.inFeatures !== matrix.columns)
      return undefined;
    const bias = node.op === "Gemm" ? inputs[2] : node.op === "MatMulNBits" ? inputs[5] : undefined;
    return withScope(node.scope, () => [quantizedProduct(inputs[0] as Value, matrix, bias)]);
  };
