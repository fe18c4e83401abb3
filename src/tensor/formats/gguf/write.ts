import { type ByteWriter, writeFileAtomic } from "#io";
import { TunesmithError } from "../../../errors/index.js";
import { quote } from "../../safetensors/header.js";
import { bytesOf, type Tensor } from "../../tensor.js";
import {
  ALIGNMENT_KEY,
  DEFAULT_ALIGNMENT,
  GGML_TYPES,
  type GgufScalar,
  type GgufValue,
  MAGIC,
  VALUE_TYPES,
} from "./types.js";

function field(size: number, fill: (view: DataView) => void): Uint8Array {
  const part = new Uint8Array(size);
  fill(new DataView(part.buffer));
  return part;
}

const u32 = (value: number) => field(4, (view) => view.setUint32(0, value, true));
const u64 = (value: number) => field(8, (view) => view.setBigUint64(0, BigInt(value), true));

function text(value: string): Uint8Array {
  const bytes = new TextEncoder().encode(value);
  return joined([u64(bytes.byteLength), bytes]);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.byteLength;
  }
  return out;
}

interface Plan {
  readonly head: Uint8Array;
  readonly tensors: readonly Tensor[];
  readonly byteLength: number;
}

/**
 * The bytes of a GGUF file (version 3), tensors and metadata in the order given. Tensors keep their number format: float32, float16,
 * bfloat16, float64 or a signed integer.
 *
 * Throws `dtype-unsupported` for other formats, `name-conflict` for a name twice, `config-invalid` for a metadata value that
 * its type cannot hold.
 *
 * @example
 * ```ts
 * import { encodeGguf, tensor } from "tunesmith/tensor";
 * const bytes = encodeGguf([["output.weight", tensor("float32", [1, 2], [1, 2])]], {
 *   "general.architecture": { type: "string", value: "llama" },
 * });
 * ```
 */
export function encodeGguf(
  tensors: Iterable<readonly [string, Tensor]>,
  metadata: Readonly<Record<string, GgufValue>> | ReadonlyMap<string, GgufValue> = {},
): Uint8Array {
  const plan = layout(tensors, metadata);
  const out = new Uint8Array(plan.byteLength);
  out.set(plan.head);
  let at = plan.head.byteLength;
  for (const value of plan.tensors) {
    out.set(bytesOf(value), at);
    at += padded(bytesOf(value).byteLength);
  }
  return out;
}

/** Writes a GGUF file atomically. Throws as `encodeGguf` and `writeFileAtomic`. */
export async function writeGguf(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  metadata: Readonly<Record<string, GgufValue>> | ReadonlyMap<string, GgufValue> = {},
): Promise<void> {
  const plan = layout(tensors, metadata);
  await writeFileAtomic(path, async (writer: ByteWriter) => {
    await writer.write(plan.head);
    for (const value of plan.tensors) {
      const bytes = bytesOf(value);
      await writer.write(bytes);
      await writer.write(new Uint8Array(padded(bytes.byteLength) - bytes.byteLength));
    }
  });
}

const padded = (length: number): number => Math.ceil(length / DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT;

function layout(
  tensors: Iterable<readonly [string, Tensor]>,
  metadata: Readonly<Record<string, GgufValue>> | ReadonlyMap<string, GgufValue>,
): Plan {
  const named = [...tensors];
  const all = (metadata instanceof Map ? [...metadata] : Object.entries(metadata)) as [string, GgufValue][];
  const entries = all.filter(([key]) => key !== ALIGNMENT_KEY);
  const parts = [u32(MAGIC), u32(3), u64(named.length), u64(entries.length)];
  for (const [key, value] of entries) parts.push(text(key), valueBytes(key, value));
  const seen = new Set<string>();
  let offset = 0;
  for (const [name, value] of named) {
    if (seen.has(name)) {
      throw new TunesmithError("name-conflict", `a GGUF file cannot hold two tensors named ${quote(name)}`, {
        fix: "give every tensor its own name",
      });
    }
    seen.add(name);
    const axes = [...value.shape].reverse().map(u64);
    parts.push(text(name), u32(value.shape.length), ...axes, u32(typeCode(name, value)), u64(offset));
    offset += padded(bytesOf(value).byteLength);
  }
  const length = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const head = joined([...parts, new Uint8Array(padded(length) - length)]);
  return { head, tensors: named.map(([, value]) => value), byteLength: head.byteLength + offset };
}

function typeCode(name: string, { dtype }: Tensor): number {
  const found = Object.entries(GGML_TYPES).find(([, type]) => type.dtype === dtype);
  if (found) return Number(found[0]);
  throw new TunesmithError("dtype-unsupported", `tensor ${quote(name)}: GGUF has no type for ${dtype}`, {
    fix: "cast it to float32 or float16",
    details: { name, dtype },
  });
}

function valueBytes(key: string, entry: GgufValue): Uint8Array {
  const type = u32(VALUE_TYPES.indexOf(entry.type));
  if (entry.type !== "array") return joined([type, scalarBytes(key, entry.type, entry.value)]);
  const head = [type, u32(VALUE_TYPES.indexOf(entry.of)), u64(entry.value.length)];
  return joined([...head, ...entry.value.map((value) => scalarBytes(key, entry.of, value))]);
}

/** Bits of the integer types; negative for signed ones. */
const INTEGER_BITS: Readonly<Record<string, number>> = {
  uint8: 8,
  int8: -8,
  uint16: 16,
  int16: -16,
  uint32: 32,
  int32: -32,
  uint64: 64,
  int64: -64,
};

function scalarBytes(key: string, type: string, value: GgufScalar): Uint8Array {
  if (type === "string" && typeof value === "string") return text(value);
  if (type === "bool" && typeof value === "boolean") return Uint8Array.of(value ? 1 : 0);
  if (type === "float32" && typeof value === "number")
    return field(4, (view) => view.setFloat32(0, value, true));
  if (type === "float64" && typeof value === "number")
    return field(8, (view) => view.setFloat64(0, value, true));
  const bits = INTEGER_BITS[type];
  if (bits !== undefined && (typeof value === "bigint" || Number.isInteger(value))) {
    const whole = BigInt(value);
    const wrapped = bits < 0 ? BigInt.asIntN(-bits, whole) : BigInt.asUintN(bits, whole);
    const word = field(8, (view) => view.setBigInt64(0, BigInt.asIntN(64, whole), true));
    if (wrapped === whole) return word.subarray(0, Math.abs(bits) / 8);
  }
  throw new TunesmithError("config-invalid", `metadata ${quote(key)}: ${String(value)} is no ${type}`, {
    fix: "name the type that the value has",
    details: { key, type },
  });
}
