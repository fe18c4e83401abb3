import { joinPath, readText, tempDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import {
  type LazyTensor,
  openSafetensors,
  openSharded,
  readTensor,
  type TensorRef,
  tensor,
  toFloat32,
  type WritableTensor,
  writeSafetensors,
} from "../tensor/index.js";
import type { Weights } from "./types.js";

/** Named weights of a safetensors checkpoint (folder, index or file) as graph constants. */
export async function loadWeights(path: string): Promise<Weights> {
  const file = await openSharded(path);
  const refs = await asFloat32([...file.entries.values()]);
  return new Map(refs.map((ref): [string, Value] => [ref.name, constant(ref, ref.name)]));
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
