import { joinPath } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { constant, type Value } from "../../graph/index.js";
import { frozenTensor, type Model } from "../../models/index.js";
import { openSafetensors, type Tensor, tensor, toFloat32, writeSafetensors } from "../../tensor/index.js";
import { rewrittenModel } from "../fields.js";
import { checkFingerprint, type Fingerprint, fingerprint } from "../fingerprint.js";
import type { Unfrozen } from "../full.js";

/** Changes of a few entries of one weight. */
export interface SparseChange {
  readonly shape: readonly number[];
  /** Flat positions, ascending. */
  readonly places: Uint32Array;
  /** What is added there; in double precision, so that the sum is the trained number bit for bit. */
  readonly values: Float64Array;
}

/** What sparse fine-tuning changes of a model: it is added to its base, and patches of one base add up. */
export interface SparsePatch {
  /** By weight name. */
  readonly changes: ReadonlyMap<string, SparseChange>;
  /** Weights that take the place of the base's: a task's head. */
  readonly whole: ReadonlyMap<string, Tensor>;
}

const FILE = "patch.safetensors";
const FINGERPRINT = "tunesmith.base_fingerprint";

/** A base weight as float32. Throws `tensor-not-found`. */
export async function baseNumbers(base: Model, name: string): Promise<Float32Array> {
  const weight = base.weights.get(name);
  if (weight) return toFloat32(await frozenTensor(weight));
  throw new TunesmithError("tensor-not-found", `the base has no weight '${name}'`, {
    fix: "apply a patch to the model it was trained on",
    details: { name },
  });
}

/**
 * What an unfrozen model changed of its base, as it is now: differences of every weight that has some, and the weights
 * named in `whole` as they are.
 *
 * @example
 * ```ts
 * import { applyPatch, patchOf, unfreeze } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const base = await loadModel("path/to/model");
 * const model = await unfreeze(base);
 * const tuned = await applyPatch(base, await patchOf(model));
 * console.log(tuned.weights.size);
 * ```
 */
export async function patchOf(model: Unfrozen, whole: ReadonlySet<string> = new Set()): Promise<SparsePatch> {
  const changes = new Map<string, SparseChange>();
  const replaced = new Map<string, Tensor>();
  for (const [name, { tensor: own }] of model.unfrozen) {
    const now = own.data as Float32Array;
    if (whole.has(name)) replaced.set(name, tensor("float32", own.shape, now.slice()));
    else {
      const change = changeOf(await baseNumbers(model.base, name), now);
      if (change.places.length > 0) changes.set(name, { shape: own.shape, ...change });
    }
  }
  return { changes, whole: replaced };
}

function changeOf(before: Float32Array, now: Float32Array): Pick<SparseChange, "places" | "values"> {
  const places: number[] = [];
  for (let at = 0; at < now.length; at++) if (now[at] !== before[at]) places.push(at);
  return {
    places: Uint32Array.from(places),
    values: Float64Array.from(places, (at) => (now[at] as number) - (before[at] as number)),
  };
}

/**
 * Patches of one base added up, each times its scale (default 1); whole weights come from the last patch that has them.
 *
 * Throws `shape-mismatch` for patches of different models.
 */
export function composePatches(patches: readonly SparsePatch[], scales: readonly number[] = []): SparsePatch {
  const sums = new Map<string, { shape: readonly number[]; values: Map<number, number> }>();
  for (const [index, { changes }] of patches.entries()) {
    for (const [name, { shape, places, values }] of changes) {
      const sum = sums.get(name) ?? { shape, values: new Map<number, number>() };
      if (sum.shape.join() !== shape.join()) {
        throw new TunesmithError(
          "shape-mismatch",
          `'${name}' is [${sum.shape}] in one patch, [${shape}] in another`,
          {
            fix: "compose patches of one base",
          },
        );
      }
      places.forEach((at, k) => {
        sum.values.set(at, (sum.values.get(at) ?? 0) + (scales[index] ?? 1) * (values[k] as number));
      });
      sums.set(name, sum);
    }
  }
  const changes = new Map(
    [...sums].map(([name, { shape, values }]): [string, SparseChange] => {
      const places = Uint32Array.from(values.keys()).sort();
      return [name, { shape, places, values: Float64Array.from(places, (at) => values.get(at) as number) }];
    }),
  );
  return { changes, whole: new Map(patches.flatMap(({ whole }) => [...whole])) };
}

/**
 * The base with a patch added: a plain model; the base stays as it is, so taking a patch off is keeping the base.
 *
 * Throws `tensor-not-found` for a weight the base lacks, `shape-mismatch`.
 */
export async function applyPatch<M extends Model>(base: M, { changes, whole }: SparsePatch): Promise<M> {
  const replace = new Map<Value, Value>();
  const weights = new Map(base.weights);
  const put = (name: string, shape: readonly number[], data: Float32Array) => {
    const own = base.weights.get(name) as Value;
    if (own.shape.join() !== shape.join()) {
      throw new TunesmithError("shape-mismatch", `'${name}' is [${own.shape}], in the patch [${shape}]`, {
        fix: "apply a patch to the model it was trained on",
      });
    }
    const value = constant(tensor("float32", shape, data), name);
    replace.set(own, value);
    weights.set(name, value);
  };
  for (const [name, { shape, places, values }] of changes) {
    const data = (await baseNumbers(base, name)).slice();
    places.forEach((at, k) => {
      data[at] = (data[at] as number) + (values[k] as number);
    });
    put(name, shape, data);
  }
  for (const [name, { shape, data }] of whole) {
    await baseNumbers(base, name);
    put(name, shape, data as Float32Array);
  }
  return rewrittenModel(base, weights, { replace });
}

/**
 * Writes a patch as `patch.safetensors`: per weight `NAME/steps`, int32 distances from each place to the next, and
 * `NAME/values`, float64; `NAME/whole` for whole weights. Throws `adapter-no-effect` for an empty one, `file-write-failed`.
 */
export async function savePatch(base: Model, { changes, whole }: SparsePatch, folder: string): Promise<void> {
  if (changes.size + whole.size === 0) {
    throw new TunesmithError("adapter-no-effect", "the patch changes nothing", {
      fix: "save what was trained",
    });
  }
  const tensors = new Map<string, Tensor>();
  for (const [name, { places, values }] of changes) {
    const steps = Int32Array.from(places, (at, k) => at - (k > 0 ? (places[k - 1] as number) : 0));
    tensors.set(`${name}/steps`, tensor("int32", [steps.length], steps));
    tensors.set(`${name}/values`, tensor("float64", [values.length], values));
  }
  for (const [name, own] of whole) tensors.set(`${name}/whole`, own);
  const prints = await fingerprint(base, [...changes.keys(), ...whole.keys()]);
  await writeSafetensors(joinPath(folder, FILE), tensors, {
    metadata: { format: "pt", [FINGERPRINT]: JSON.stringify(prints) },
  });
}

/**
 * Reads a patch of `base`. Throws `wrong-base` unless `anyBase`, `adapter-invalid` for a file that is no patch or whose
 * places lie outside their weight, `tensor-not-found`.
 */
export async function loadPatch(
  base: Model,
  folder: string,
  { anyBase = false }: { readonly anyBase?: boolean } = {},
): Promise<SparsePatch> {
  const file = await openSafetensors(joinPath(folder, FILE));
  try {
    const prints = file.metadata.get(FINGERPRINT);
    if (prints === undefined) {
      throw new TunesmithError("adapter-invalid", `${file.name} does not say which base it belongs to`, {
        fix: "it was not written by savePatch",
      });
    }
    if (!anyBase) await checkFingerprint(base, JSON.parse(prints) as Fingerprint, file.name);
    const changes = new Map<string, SparseChange>();
    const whole = new Map<string, Tensor>();
    for (const key of file.entries.keys()) {
      const [name, part] = [key.slice(0, key.lastIndexOf("/")), key.slice(key.lastIndexOf("/") + 1)];
      const shape = base.weights.get(name)?.shape as readonly number[] | undefined;
      if (!shape) throw new TunesmithError("tensor-not-found", `the base has no weight '${name}'`);
      if (part === "whole") whole.set(name, tensor("float32", shape, toFloat32(await file.read(key))));
      if (part !== "steps") continue;
      const places = placesOf((await file.read(key)).data as Int32Array, shape, `${file.name}: ${name}`);
      const values = (await file.read(`${name}/values`)).data;
      if (!(values instanceof Float64Array) || values.length !== places.length)
        throw badPatch(`${file.name}: ${name}`);
      changes.set(name, { shape, places, values });
    }
    return { changes, whole };
  } finally {
    await file.close();
  }
}

function placesOf(steps: Int32Array, shape: readonly number[], what: string): Uint32Array {
  const size = shape.reduce((a, b) => a * b, 1);
  let place = 0;
  return Uint32Array.from(steps, (step, k) => {
    place += step;
    if (step < (k > 0 ? 1 : 0) || place >= size) throw badPatch(what);
    return place;
  });
}

const badPatch = (what: string) =>
  new TunesmithError("adapter-invalid", `${what}: places do not fit the weight`, {
    fix: "the file is damaged, or of another model",
  });
