import { TunesmithError } from "../../errors/index.js";
import type { Model } from "../../models/index.js";
import { frobeniusNorm, gemm } from "../../runtime/linalg/index.js";
import { adapterNamed } from "../adapt.js";
import type { Adapted } from "../adapted.js";
import type { Adapter } from "../adapter.js";
import { type MergeOptions, merge } from "../merge.js";
import type { Receipted } from "../receipt.js";
import { type OrthogonalAdaptationConfig, orthogonalAdaptationMethod } from "./orthogonal-adaptation.js";

/** How much the directions of two concepts have in common. */
export interface ConceptOverlap {
  readonly adapters: readonly [string, string];
  /** Inputs of the maps it is about. */
  readonly width: number;
  /** ‖BᵢᵀBⱼ‖ (Frobenius): 0 for orthogonal directions, sqrt(rank) for the same. */
  readonly overlap: number;
}

const configOf = ({ adaptation }: Adapter) => adaptation.config as OrthogonalAdaptationConfig;

function conceptsOf(model: Adapted, names: Iterable<string>): Adapter[] {
  return [...names].map((name) => {
    const adapter = adapterNamed(model, name);
    if (adapter.adaptation.method.name === orthogonalAdaptationMethod.name) return adapter;
    throw new TunesmithError(
      "adapter-invalid",
      `'${name}' is an adapter of ${adapter.adaptation.method.name}, not of ${orthogonalAdaptationMethod.name}`,
      { fix: "switch it off, or use merge" },
    );
  });
}

/**
 * Overlap of every pair of concepts that are active on a model, per width of maps that both adapt. Throws `adapter-invalid`
 * for another method's adapter.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, overlapReport } from "tunesmith/methods";
 * export const worst = (model: AdaptedLm) => Math.max(...overlapReport(model).map(({ overlap }) => overlap));
 * ```
 */
export function overlapReport(model: Adapted): ConceptOverlap[] {
  const concepts = conceptsOf(model, model.active);
  return concepts.flatMap((one, at) => concepts.slice(at + 1).flatMap((other) => between(one, other)));
}

function between(one: Adapter, other: Adapter): ConceptOverlap[] {
  return Object.entries(one.shared).flatMap(([name, { tensor: b }]) => {
    const opposite = other.shared[name]?.tensor;
    if (!opposite) return [];
    const matrix = ({ shape, data }: typeof b) => ({
      rows: shape[0] as number,
      cols: shape[1] as number,
      data: data as Float32Array,
    });
    const overlap = frobeniusNorm(gemm(matrix(b), matrix(opposite), { transposeB: true }));
    return [{ adapters: [one.name, other.name], width: b.shape[1] as number, overlap }];
  });
}

/** Throws for concepts whose directions are not meant for each other. */
function checkCompatible(concepts: readonly Adapter[]): void {
  for (const [at, one] of concepts.entries()) {
    for (const other of concepts.slice(at + 1)) {
      const [a, b] = [configOf(one), configOf(other)];
      const conflict = conflictOf(a, b);
      if (!conflict) continue;
      throw new TunesmithError("adapter-invalid", `'${one.name}' and '${other.name}' ${conflict}`, {
        fix: "train one of them again with the other's basis and basisSeed, and a conceptId or slot of its own",
      });
    }
  }
}

function conflictOf(a: OrthogonalAdaptationConfig, b: OrthogonalAdaptationConfig): string | undefined {
  if (a.basis !== b.basis) return "have bases of different kinds";
  if (a.basis !== "gaussian" && a.basisSeed !== b.basisSeed) return "have bases of different seeds";
  // Blocks of unequal ranks start elsewhere: the columns themselves may overlap.
  const ranks = [a.slot ?? 0, b.slot ?? 0].map((slot, at) => slot * (at === 0 ? a.rank : b.rank)) as [
    number,
    number,
  ];
  const overlaps = ranks[0] < ranks[1] + b.rank && ranks[1] < ranks[0] + a.rank;
  if (a.basis === "registry") return overlaps ? "have overlapping slots" : undefined;
  return a.conceptId === b.conceptId ? "have the same conceptId, so the same directions" : undefined;
}

/**
 * The active concepts of a model added into its weights, each with a strength of its own (default 1): one addition per concept, whatever
 * their order. Strengths on `model` stay as they are.
 *
 * Throws `adapter-invalid` for concepts whose directions collide or are not of one basis, and what `merge` throws.
 *
 * @example
 * ```ts
 * import { loadAdapter, mergeConcepts } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const base = await loadModel("path/to/model");
 * const cat = await loadAdapter(base, "path/to/cat", { name: "cat" });
 * const both = await loadAdapter(cat, "path/to/dog", { name: "dog" });
 * const merged = await mergeConcepts(both, { dog: 0.8 });
 * ```
 */
export async function mergeConcepts<M extends Model>(
  model: Adapted<M>,
  strengths: Readonly<Record<string, number>> = {},
  options: MergeOptions = {},
): Promise<M & Receipted> {
  for (const name of Object.keys(strengths)) adapterNamed(model, name);
  const concepts = conceptsOf(model, model.active);
  checkCompatible(concepts);
  const gates = concepts.map(({ gate }) => gate.tensor.data as Float32Array);
  const before = gates.map((gate) => gate[0] as number);
  try {
    concepts.forEach(({ name }, at) => {
      gates[at]?.fill(strengths[name] ?? 1);
    });
    return await merge(model, options);
  } finally {
    before.forEach((value, at) => {
      gates[at]?.fill(value);
    });
  }
}
