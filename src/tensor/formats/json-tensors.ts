import type { TunesmithError } from "../../errors/index.js";
import { byteLengthOf, type Dtype, dtypeFromSafetensors } from "../dtype.js";
import { corrupt, quote } from "../safetensors/header.js";
import { elementCount, fromBytes, type Tensor } from "../tensor.js";

/** Names and values of a JSON checkpoint, and what else is in it. */
export interface JsonTensors {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Its `config` entry; empty when there is none. */
  readonly config: Readonly<Record<string, unknown>>;
}

const TORCH: Readonly<Record<string, Dtype>> = {
  float32: "float32",
  float64: "float64",
  float16: "float16",
  bfloat16: "bfloat16",
  int64: "int64",
  int32: "int32",
  int16: "int16",
  int8: "int8",
  uint8: "uint8",
  bool: "bool",
};

/**
 * Reads a checkpoint in JSON, as small demonstrations in the browser have them: one object with an optional `config`, and tensors as
 * `{ "shape": [3, 48], "dtype": "torch.float32", "data": "<base64, little-endian>" }`; `data` may be a list of numbers too.
 *
 * Throws `file-corrupt` naming the tensor.
 *
 * @param text The file.
 * @param name Names it in errors.
 * @example
 * ```ts
 * import { parseJsonTensors } from "tunesmith/tensor";
 * const { tensors, config } = parseJsonTensors('{"config": {"n_layer": 1}, "w": {"shape": [1], "data": [2]}}', "model.json");
 * ```
 */
export function parseJsonTensors(text: string, name: string): JsonTensors {
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw corrupt(name, "it is not JSON", "copy or download the file again", { cause });
  }
  if (!isObject(root)) throw corrupt(name, "it is not a JSON object", "give a file of named tensors");
  const { config = {} } = root;
  if (!isObject(config)) throw corrupt(name, "its config is not an object", "give a file of named tensors");
  const tensors = new Map<string, Tensor>();
  for (const [key, value] of Object.entries(root)) {
    if (key !== "config") tensors.set(key, parseTensor(name, key, value));
  }
  return { tensors, config };
}

function parseTensor(file: string, key: string, value: unknown): Tensor {
  const bad = (why: string): TunesmithError =>
    corrupt(file, `${quote(key)}: ${why}`, "every entry but config is { shape, dtype, data }");
  if (!isObject(value)) throw bad("it is no tensor");
  const { shape, dtype: typeName = "float32", data } = value;
  if (!Array.isArray(shape) || !shape.every((length) => Number.isSafeInteger(length) && length >= 0)) {
    throw bad("its shape is not a list of lengths");
  }
  const dtype = dtypeOf(String(typeName));
  if (!dtype) throw bad(`its dtype ${quote(String(typeName))} is unknown`);
  const wanted = byteLengthOf(dtype, elementCount(shape, key));
  if (typeof data === "string") {
    const bytes = decodeBase64(data);
    if (!bytes) throw bad("its data is not base64");
    if (bytes.byteLength !== wanted) throw bad(`its data has ${bytes.byteLength} bytes instead of ${wanted}`);
    return fromBytes(dtype, shape, bytes);
  }
  if (dtype !== "float32" || !Array.isArray(data) || !data.every((item) => typeof item === "number")) {
    throw bad("its data is neither base64 nor a list of numbers");
  }
  if (data.length * 4 !== wanted) throw bad(`its data has ${data.length} numbers for shape [${shape}]`);
  return { dtype, shape: [...shape], data: Float32Array.from(data) };
}

function dtypeOf(name: string): Dtype | undefined {
  const short = name.replace(/^torch\./, "");
  return Object.hasOwn(TORCH, short) ? TORCH[short] : dtypeFromSafetensors(name);
}

function decodeBase64(text: string): Uint8Array | undefined {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
