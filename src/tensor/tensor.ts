import { TunesmithError } from "../errors/index.js";
import {
  arrayLengthOf,
  arrayOf,
  byteLengthOf,
  type Dtype,
  dtypeInfo,
  type NumericData,
  type TensorData,
} from "./dtype.js";
import { float32ToBfloat16, float32ToFloat16 } from "./half.js";
import { int64FromNumbers, packInt4 } from "./pack.js";

/** A dense, row-major tensor in memory. Plain data: build it with `tensor()`, read `data` directly. */
export interface Tensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

/**
 * The number of elements of a shape. Throws `shape-mismatch` for a negative, fractional or absurd length.
 *
 * @param name Names the tensor in the error.
 */
export function elementCount(shape: readonly number[], name = "tensor"): number {
  let count = 1;
  for (const length of shape) {
    count *= length;
    if (!Number.isSafeInteger(length) || length < 0 || !Number.isSafeInteger(count)) {
      throw new TunesmithError("shape-mismatch", `${name}: shape [${shape.join(", ")}] is not possible`, {
        fix: "every axis is a non-negative integer, and their product stays below 2^53",
        details: { name, shape },
      });
    }
  }
  return count;
}

/**
 * A tensor of `data`, which is taken over without a copy when it is the array type of `dtype` (raw bits for the
 * half types, packed bytes for the 4-bit ones). A plain array holds values and is converted.
 *
 * Throws `shape-mismatch` when the data does not fill the shape, `dtype-unsupported` when its array type is
 * another dtype's or a value does not fit.
 *
 * @example
 * ```ts
 * import { tensor } from "tunesmith/tensor";
 * const matrix = tensor("float32", [2, 2], [1, 2, 3, 4]);
 * const bits = tensor("float16", [1], new Uint16Array([0x3c00])); // 1.0
 * ```
 */
export function tensor(
  dtype: Dtype,
  shape: readonly number[],
  data: TensorData | readonly (number | bigint | boolean)[],
): Tensor {
  const count = elementCount(shape);
  if (Array.isArray(data) && dtype !== "string") return tensor(dtype, shape, fromValues(dtype, data));
  const array = dtypeInfo(dtype).array ?? Array;
  if (!(data instanceof array) || (dtype === "string" && data.some((item) => typeof item !== "string"))) {
    throw new TunesmithError(
      "dtype-unsupported",
      `a ${dtype} tensor holds ${dtype === "string" ? "strings" : `a ${array.name}`}, not a ${data.constructor.name}`,
      {
        fix: "convert the data, or name the dtype that it is",
        details: { dtype, array: data.constructor.name },
      },
    );
  }
  if (data.length !== arrayLengthOf(dtype, count)) {
    throw new TunesmithError(
      "shape-mismatch",
      `a ${dtype} tensor of shape [${shape.join(", ")}] holds ${arrayLengthOf(dtype, count)} elements, not ${data.length}`,
      { fix: "correct the shape or the data", details: { dtype, shape, length: data.length } },
    );
  }
  return { dtype, shape: [...shape], data: data as TensorData };
}

function fromValues(dtype: Dtype, values: readonly (number | bigint | boolean)[]): NumericData {
  if (dtype === "int64" && values.every((value) => typeof value === "number"))
    return int64FromNumbers(values);
  if (dtype === "int64") return BigInt64Array.from(values, BigInt);
  if (dtype === "uint64") return BigUint64Array.from(values, BigInt);
  const numbers = values.map(Number);
  switch (dtype) {
    case "float32":
      return Float32Array.from(numbers);
    case "float64":
      return Float64Array.from(numbers);
    case "float16":
      return float32ToFloat16(Float32Array.from(numbers));
    case "bfloat16":
      return float32ToBfloat16(Float32Array.from(numbers));
    case "int4":
    case "uint4":
      return packInt4(numbers, dtype === "int4");
    case "bool":
      return Uint8Array.from(numbers, (value) => (value === 0 ? 0 : 1));
    default: {
      const out = new (arrayOf(dtype))(numbers.length) as Int32Array;
      out.set(numbers);
      const bad = numbers.findIndex((value, i) => out[i] !== value);
      if (bad < 0) return out;
      throw new TunesmithError(
        "dtype-unsupported",
        `element ${bad} is ${numbers[bad]}, which ${dtype} cannot hold`,
        {
          fix: "round or clamp the values, or choose another dtype",
          details: { dtype, index: bad, value: numbers[bad] },
        },
      );
    }
  }
}

/** A tensor of zeros (of empty strings for `string`). Throws `out-of-memory` when it cannot be allocated. */
export function zeros(dtype: Dtype, shape: readonly number[]): Tensor {
  const length = arrayLengthOf(dtype, elementCount(shape));
  try {
    const data = dtype === "string" ? new Array<string>(length).fill("") : new (arrayOf(dtype))(length);
    return { dtype, shape: [...shape], data };
  } catch (cause) {
    throw new TunesmithError(
      "out-of-memory",
      `a ${dtype} tensor of shape [${shape.join(", ")}] cannot be allocated`,
      {
        fix: "use a smaller shape, or split the tensor",
        cause,
        details: { dtype, shape },
      },
    );
  }
}

/** A tensor of shape `[]`. @param dtype `float32` by default. */
export function scalar(value: number | bigint | boolean, dtype: Dtype = "float32"): Tensor {
  return tensor(dtype, [], [value]);
}

/** The same data under another shape. One axis may be -1: it takes what is left. Throws `shape-mismatch`. */
export function reshape(source: Tensor, shape: readonly number[]): Tensor {
  const count = elementCount(source.shape);
  const known = elementCount(shape.filter((length) => length !== -1));
  const full = shape.map((length) => (length === -1 && known > 0 ? count / known : length));
  const fits = shape.filter((length) => length === -1).length <= 1 && full.every(Number.isInteger);
  if (fits && !full.includes(-1) && elementCount(full) === count) {
    return { dtype: source.dtype, shape: full, data: source.data };
  }
  throw new TunesmithError(
    "shape-mismatch",
    `[${source.shape.join(", ")}] cannot be reshaped to [${shape.join(", ")}]`,
    {
      fix: "keep the number of elements; at most one axis may be -1",
      details: { from: source.shape, to: shape },
    },
  );
}

/**
 * Rows `start` to `end` (exclusive) of the first axis, as a view on the same memory. Throws `shape-mismatch`
 * outside the tensor, and where a row of a 4-bit tensor starts inside a byte.
 *
 * @param source `[rows, ...]`
 * @returns `[end - start, ...]`
 */
export function rows(source: Tensor, start: number, end: number): Tensor {
  const { from, to, shape } = rowRange(source.dtype, source.shape, start, end);
  const { data } = source;
  return {
    dtype: source.dtype,
    shape,
    data: isStrings(data) ? data.slice(from, to) : data.subarray(from, to),
  };
}

/** Which part of the data array the rows `start..end` of a tensor are, with the checks of `rows`. */
export function rowRange(
  dtype: Dtype,
  shape: readonly number[],
  start: number,
  end: number,
): { from: number; to: number; shape: number[] } {
  const [count, ...rest] = shape;
  const width = elementCount(rest);
  const perByte = dtypeInfo(dtype).bits === 4 ? 2 : 1;
  const inside = Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start <= end;
  const whole = (start * width) % perByte === 0 && ((end * width) % perByte === 0 || end === count);
  if (count === undefined || !inside || end > count || !whole) {
    throw new TunesmithError(
      "shape-mismatch",
      `rows ${start} to ${end} of a ${dtype} tensor [${shape.join(", ")}] are not a view of it`,
      {
        fix: "stay inside the first axis (4-bit rows start at whole bytes)",
        details: { dtype, shape, start, end },
      },
    );
  }
  const from = (start * width) / perByte;
  return { from, to: Math.ceil((end * width) / perByte), shape: [end - start, ...rest] };
}

/** The bytes of a tensor, little-endian and row-major as in files: a view. Throws `dtype-unsupported` for strings. */
export function bytesOf(source: Tensor): Uint8Array {
  const { data } = source;
  byteLengthOf(source.dtype, 0);
  if (isStrings(data)) return new Uint8Array(0);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * A tensor over file bytes: a view when they are aligned to the element size, else a copy. Throws
 * `shape-mismatch` when their number is not what the shape takes.
 */
export function fromBytes(dtype: Dtype, shape: readonly number[], bytes: Uint8Array): Tensor {
  const count = elementCount(shape);
  const wanted = byteLengthOf(dtype, count);
  if (bytes.byteLength !== wanted) {
    throw new TunesmithError(
      "shape-mismatch",
      `a ${dtype} tensor of shape [${shape.join(", ")}] takes ${wanted} bytes, not ${bytes.byteLength}`,
      {
        fix: "correct the shape, the dtype or the bytes",
        details: { dtype, shape, bytes: bytes.byteLength },
      },
    );
  }
  const array = arrayOf(dtype);
  const aligned = bytes.byteOffset % array.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  const data = new array(aligned.buffer, aligned.byteOffset, arrayLengthOf(dtype, count));
  return { dtype, shape: [...shape], data };
}

function isStrings(data: TensorData): data is readonly string[] {
  return Array.isArray(data);
}
