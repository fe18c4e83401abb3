import { TunesmithError } from "../errors/index.js";
import { arrayOf, type Dtype, dtypeInfo, isInteger } from "./dtype.js";
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16 } from "./half.js";
import { packInt4, unpackInt4 } from "./pack.js";
import { bytesOf, elementCount, type Tensor } from "./tensor.js";

/** The values of a tensor as float32; the data itself, not a copy, when it is float32 already. */
export function toFloat32(source: Tensor): Float32Array {
  const { dtype, data } = source;
  if (dtype === "float32") return data as Float32Array;
  if (dtype === "float16") return float16ToFloat32(data as Uint16Array);
  if (dtype === "bfloat16") return bfloat16ToFloat32(data as Uint16Array);
  return new Float32Array(valuesOf(source));
}

/** The values of a tensor as numbers, in an array that may be its data itself. 64-bit integers may round. */
export function valuesOf(source: Tensor): ArrayLike<number> & Iterable<number> {
  const { dtype, data } = source;
  switch (dtype) {
    case "string":
      throw new TunesmithError("dtype-unsupported", "a string tensor has no numeric values", {
        fix: "convert the strings to numbers first",
      });
    case "float16":
    case "bfloat16":
      return toFloat32(source);
    case "int4":
    case "uint4":
      return unpackInt4(data as Uint8Array, elementCount(source.shape), dtype === "int4");
    case "int64":
    case "uint64":
      return Float64Array.from(data as BigInt64Array, Number);
    default:
      return data as Float64Array;
  }
}

/**
 * The tensor in another element type. Floats become integers by truncation towards zero; what lies outside the
 * range of an integer type takes its nearest end, and NaN becomes 0. Anything but zero is `true`. Between 64-bit
 * integer types the values stay exact. Returns the tensor itself when the type is the same already.
 *
 * Throws `dtype-unsupported` from or to `string`.
 *
 * @example
 * ```ts
 * import { castTensor, tensor } from "tunesmith/tensor";
 * const half = castTensor(tensor("float32", [2], [0.1, 1e6]), "float16"); // 0.0999755859375, Infinity
 * ```
 */
export function castTensor(source: Tensor, dtype: Dtype): Tensor {
  if (source.dtype === dtype) return source;
  return { dtype, shape: source.shape, data: convert(source, dtype) };
}

function convert(source: Tensor, dtype: Dtype): Tensor["data"] {
  switch (dtype) {
    case "float32":
      return toFloat32(source);
    case "float16":
      return float32ToFloat16(toFloat32(source));
    case "bfloat16":
      return float32ToBfloat16(toFloat32(source));
    case "float64":
      return new Float64Array(valuesOf(source));
    case "bool":
      return Uint8Array.from(valuesOf(source), (value) => (value === 0 ? 0 : 1));
    case "int64":
    case "uint64":
      return toBigInts(source, dtype);
    case "string":
      arrayOf(dtype);
      return [];
    default:
      return toIntegers(source, dtype);
  }
}

function toIntegers(source: Tensor, dtype: Dtype): Tensor["data"] {
  const { bits } = dtypeInfo(dtype);
  const signed = dtypeInfo(dtype).kind === "int";
  const low = signed ? -(2 ** (bits - 1)) : 0;
  const high = low + 2 ** bits - 1;
  const values = valuesOf(source);
  const out = (bits === 4 ? new Int8Array(values.length) : new (arrayOf(dtype))(values.length)) as Int32Array;
  for (let i = 0; i < values.length; i++) {
    // Assigning NaN to an integer array stores 0, and a fraction is truncated.
    out[i] = Math.min(high, Math.max(low, values[i] as number));
  }
  return bits === 4 ? packInt4(out, signed) : out;
}

function toBigInts(source: Tensor, dtype: "int64" | "uint64"): BigInt64Array | BigUint64Array {
  const low = dtype === "int64" ? -(2n ** 63n) : 0n;
  const high = dtype === "int64" ? 2n ** 63n - 1n : 2n ** 64n - 1n;
  const clamp = (value: bigint) => (value < low ? low : value > high ? high : value);
  const { data } = source;
  const out =
    dtype === "int64"
      ? new BigInt64Array(elementCount(source.shape))
      : new BigUint64Array(elementCount(source.shape));
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
    for (let i = 0; i < out.length; i++) out[i] = clamp(data[i] as bigint);
    return out;
  }
  const values = valuesOf(source);
  for (let i = 0; i < out.length; i++) {
    const value = values[i] as number;
    if (Number.isFinite(value)) out[i] = clamp(BigInt(Math.trunc(value)));
    else out[i] = value > 0 ? high : value < 0 ? low : 0n;
  }
  return out;
}

/** Whether two tensors have the same type, shape and bits (so NaN equals itself, and 0 differs from -0). */
export function tensorsEqual(a: Tensor, b: Tensor): boolean {
  if (a.dtype !== b.dtype || !sameShape(a.shape, b.shape)) return false;
  if (a.dtype === "string") return a.data.every((item: unknown, i: number) => item === b.data[i]);
  const left = bytesOf(a);
  const right = bytesOf(b);
  return left.every((byte, i) => byte === right[i]);
}

/**
 * The largest absolute difference of two tensors' values, whatever their types; 0 when both are empty, NaN when
 * a value is NaN in only one of them (equal infinities, or NaN in both, count as no difference). Throws
 * `shape-mismatch`.
 */
export function maxAbsDiff(a: Tensor, b: Tensor): number {
  if (!sameShape(a.shape, b.shape)) {
    throw new TunesmithError(
      "shape-mismatch",
      `shapes [${a.shape.join(", ")}] and [${b.shape.join(", ")}] cannot be compared`,
      { fix: "reshape one of them", details: { left: a.shape, right: b.shape } },
    );
  }
  if (isInteger(a.dtype) && tensorsEqual(a, b)) return 0;
  const left = valuesOf(a);
  const right = valuesOf(b);
  let largest = 0;
  for (let i = 0; i < left.length; i++) {
    if (Object.is(left[i], right[i])) continue;
    const difference = Math.abs((left[i] as number) - (right[i] as number));
    if (Number.isNaN(difference)) return Number.NaN;
    if (difference > largest) largest = difference;
  }
  return largest;
}

/** Whether two shapes are the same. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}
