import { joinPath, makeDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import type { Model } from "../models/index.js";
import {
  openSafetensors,
  readTensor,
  type Tensor,
  type TensorRef,
  tensor,
  toFloat32,
  writeSafetensors,
} from "../tensor/index.js";
import { rewrittenModel } from "./fields.js";
import { checkFingerprint, type Fingerprint, fingerprint } from "./fingerprint.js";

const FILE = "delta.safetensors";
const FINGERPRINT = "tunesmith.base_fingerprint";

/** What a delta file holds. */
export interface DeltaReport {
  /** Weights that differ from the base's, by name. */
  readonly changed: readonly string[];
  /** Frobenius norm of all differences. */
  readonly norm: number;
}

const dataOf = (value: Value): Tensor | TensorRef => {
  if (value.source.kind === "constant") return value.source.data;
  throw new TunesmithError("graph-invalid", `weight '${value.name}' is computed, not stored`, {
    fix: "save the delta of a merged or frozen model",
  });
};

const numbersOf = async (value: Value): Promise<Float32Array> => toFloat32(await readTensor(dataOf(value)));

/**
 * Writes what a fully tuned model changed: W' − W of every weight that differs, as `delta.safetensors`, with the fingerprint of the
 * base. Weights are read one at a time.
 *
 * Throws `shape-mismatch` for models of different shapes, `adapter-no-effect` when nothing differs, `file-write-failed`.
 *
 * @example
 * ```ts
 * import { applyDelta, saveDelta } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const [base, tuned] = [await loadModel("base"), await loadModel("tuned")];
 * console.log((await saveDelta(base, tuned, "delta")).changed.length);
 * const again = await applyDelta(base, "delta");
 * console.log(again.weights.size);
 * ```
 */
export async function saveDelta(base: Model, tuned: Model, folder: string): Promise<DeltaReport> {
  const changed = new Map<string, Tensor>();
  let squares = 0;
  for (const [name, value] of base.weights) {
    const other = tuned.weights.get(name);
    if (!other || other.shape.join() !== value.shape.join()) {
      throw new TunesmithError(
        "shape-mismatch",
        `weight '${name}' is [${value.shape}] and [${other?.shape ?? "absent"}]`,
        {
          fix: "a delta is between two models of one architecture and one vocabulary",
        },
      );
    }
    if (other === value) continue;
    const [before, after] = [await numbersOf(value), await numbersOf(other)];
    const difference = after.map((number, at) => number - (before[at] as number));
    const square = difference.reduce((sum, number) => sum + number * number, 0);
    if (square === 0) continue;
    squares += square;
    changed.set(name, tensor("float32", value.shape as number[], difference));
  }
  if (changed.size === 0) {
    throw new TunesmithError("adapter-no-effect", "the tuned model's weights are the base's", {
      fix: "give the model that was trained",
    });
  }
  const prints = await fingerprint(base, changed.keys());
  await makeDir(folder);
  await writeSafetensors(joinPath(folder, FILE), changed, {
    metadata: { format: "pt", [FINGERPRINT]: JSON.stringify(prints) },
  });
  return { changed: [...changed.keys()], norm: Math.sqrt(squares) };
}

/**
 * The base with a delta added to its weights: a plain model. Throws `wrong-base` unless `anyBase`, `tensor-not-found` for a
 * weight the base lacks, `adapter-invalid` for a file without a fingerprint.
 *
 * @param options.scale How much of it is added. Default 1.
 */
export async function applyDelta<M extends Model>(
  base: M,
  folder: string,
  { scale = 1, anyBase = false }: { readonly scale?: number; readonly anyBase?: boolean } = {},
): Promise<M> {
  const file = await openSafetensors(joinPath(folder, FILE));
  try {
    const prints = file.metadata.get(FINGERPRINT);
    if (prints === undefined) {
      throw new TunesmithError("adapter-invalid", `${file.name} does not say which base it belongs to`, {
        fix: "it was not written by saveDelta",
      });
    }
    if (!anyBase) await checkFingerprint(base, JSON.parse(prints) as Fingerprint, file.name);
    const weights = new Map(base.weights);
    const replace = new Map<Value, Value>();
    for (const name of file.entries.keys()) {
      const own = base.weights.get(name);
      if (!own) throw new TunesmithError("tensor-not-found", `the base has no weight '${name}'`);
      const [before, change] = [await numbersOf(own), toFloat32(await file.read(name))];
      const sum = before.map((number, at) => number + scale * (change[at] as number));
      const value = constant(tensor("float32", own.shape as number[], sum), name);
      replace.set(own, value);
      weights.set(name, value);
    }
    return rewrittenModel(base, weights, { replace });
  } finally {
    await file.close();
  }
}
