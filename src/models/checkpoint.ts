import { joinPath, readText, tempDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import {
  type LazyTensor,
  loadStored,
  openSafetensors,
  openSharded,
  openTorch,
  parseJsonTensors,
  readTensor,
  type StoredTensor,
  type Tensor,
  type TensorRef,
  tensor,
  toFloat32,
  type WritableTensor,
  writeSafetensors,
} from "../tensor/index.js";
import type { Weights } from "./types.js";

/** Named weights of a safetensors checkpoint (folder, index or file) as graph constants. */
export async function loadWeights(path: string, baseName?: string): Promise<Weights> {
  const file = await openSharded(path, baseName);
  const refs = await asFloat32([...file.entries.values()]);
  return new Map(refs.map((ref): [string, Value] => [ref.name, constant(ref, ref.name)]));
}

/** A file of named tensors, and what it says of the model, if anything. */
export interface StateDict {
  readonly weights: Weights;
  readonly config?: Readonly<Record<string, unknown>>;
}

/** Named weights of one file: safetensors, a PyTorch checkpoint (`.pth`, `.pt`, `.th`, `.bin`), or tensors in JSON. */
export async function loadStateDict(path: string): Promise<StateDict> {
  if (path.endsWith(".safetensors")) return { weights: await loadWeights(path) };
  if (path.endsWith(".json")) {
    const { tensors, config } = parseJsonTensors(await readText(path), path);
    return { weights: new Map([...tensors].map(([name, value]) => [name, inMemory(name, value)])), config };
  }
  const file = await openTorch(path);
  const weights = new Map<string, Value>();
  for (const [name, stored] of file.tensors) weights.set(name, await asConstant(name, stored));
  return { weights };
}

const inMemory = (name: string, { dtype, shape, data }: Tensor): Value =>
  constant(
    HALF.has(dtype)
      ? tensor("float32", shape, toFloat32({ dtype, shape, data } as Tensor))
      : { dtype, shape, data },
    name,
  );

/** What lies in the file as it is computed with stays there. */
async function asConstant(name: string, stored: StoredTensor): Promise<Value> {
  const mapped = "source" in stored && !HALF.has(stored.dtype) && stored.offset % 4 === 0;
  return mapped ? constant(stored, name) : inMemory(name, await loadStored(stored));
}

const HALF = new Set(["float16", "bfloat16", "float64"]);

/** ONNX Runtime's CPU kernels compute in float32: other float types are widened once, file to file. */
async function asFloat32(refs: readonly TensorRef[]): Promise<TensorRef[]> {
  const narrow = refs.filter((ref) => HALF.has(ref.dtype));
  if (narrow.length === 0) return [...refs];
  const path = joinPath(await tempDir("tunesmith-f32-", { untilExit: true }), "model.safetensors");
  const widened = narrow.map((ref): [string, WritableTensor] => [ref.name, widen(ref)]);
  await writeSafetensors(path, widened);
  const converted = await openSafetensors(path);
  return refs.map((ref) => converted.entries.get(ref.name) ?? ref);
}

const widen = (ref: TensorRef): LazyTensor => ({
  dtype: "float32",
  shape: ref.shape,
  load: async () => tensor("float32", ref.shape, toFloat32(await readTensor(ref))),
});

/** A JSON object from a file; throws `file-corrupt` naming it. */
export async function readJson(path: string): Promise<Record<string, unknown>> {
  const text = await readText(path);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${path} is not valid JSON`, { cause, fix: "restore the file" });
  }
  throw new TunesmithError("file-corrupt", `${path} does not hold a JSON object`, {
    fix: "restore the file",
  });
}
