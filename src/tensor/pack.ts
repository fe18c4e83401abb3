import { TunesmithError } from "../errors/index.js";

/**
 * Packs 4-bit integers two to a byte, the first in the low nibble, as ONNX stores `int4` and `uint4`.
 *
 * @param values Integers in -8..7 (signed) or 0..15; anything else throws `dtype-unsupported`.
 */
export function packInt4(values: ArrayLike<number>, signed: boolean): Uint8Array {
  const low = signed ? -8 : 0;
  const packed = new Uint8Array(Math.ceil(values.length / 2));
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (!Number.isInteger(value) || value < low || value > low + 15) {
      throw new TunesmithError(
        "dtype-unsupported",
        `element ${i} is ${value}, which does not fit ${signed ? "int4 (-8..7)" : "uint4 (0..15)"}`,
        { fix: "clamp and round the values first", details: { index: i, value } },
      );
    }
    packed[i >> 1] = (packed[i >> 1] as number) | ((value & 15) << ((i & 1) * 4));
  }
  return packed;
}

/** Unpacks `count` 4-bit integers. */
export function unpackInt4(packed: Uint8Array, count: number, signed: true): Int8Array;
export function unpackInt4(packed: Uint8Array, count: number, signed: boolean): Int8Array | Uint8Array;
export function unpackInt4(packed: Uint8Array, count: number, signed: boolean): Int8Array | Uint8Array {
  if (packed.length !== Math.ceil(count / 2)) {
    throw new TunesmithError(
      "shape-mismatch",
      `${count} 4-bit elements take ${Math.ceil(count / 2)} bytes, not ${packed.length}`,
      { fix: "pass the whole packed data and its element count", details: { count, bytes: packed.length } },
    );
  }
  const out = signed ? new Int8Array(count) : new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const nibble = ((packed[i >> 1] as number) >>> ((i & 1) * 4)) & 15;
    out[i] = signed ? (nibble << 28) >> 28 : nibble;
  }
  return out;
}

/** The 32-bit halves, low one first (every platform that runs JavaScript stores them so). */
function halvesOf(array: BigInt64Array): Int32Array {
  return new Int32Array(array.buffer, array.byteOffset, array.length * 2);
}

/**
 * Writes int32 values into an int64 array without creating BigInts, which are ~20 times slower.
 *
 * @param target As long as `values`, or longer: then only its start is written.
 */
export function fillInt64FromInt32(target: BigInt64Array, values: Int32Array): void {
  if (target.length < values.length) {
    throw new TunesmithError(
      "shape-mismatch",
      `${values.length} values do not fit an int64 array of ${target.length}`,
      {
        fix: "allocate the target with the length of the values",
        details: { target: target.length, values: values.length },
      },
    );
  }
  const halves = halvesOf(target);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    halves[2 * i] = value;
    halves[2 * i + 1] = value >> 31;
  }
}

/** Integers to an int64 array. Throws `dtype-unsupported` for a fraction or a value beyond 2^53. */
export function int64FromNumbers(values: ArrayLike<number>): BigInt64Array {
  const out = new BigInt64Array(values.length);
  const halves = halvesOf(out);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (!Number.isSafeInteger(value)) throw notExact(i, value);
    halves[2 * i] = value | 0;
    halves[2 * i + 1] = Math.floor(value / 2 ** 32);
  }
  return out;
}

/** An int64 array to numbers. Throws `dtype-unsupported` for a value beyond 2^53, which a number cannot hold. */
export function numbersFromInt64(values: BigInt64Array): number[] {
  const halves = halvesOf(values);
  const out = new Array<number>(values.length);
  for (let i = 0; i < values.length; i++) {
    const value = (halves[2 * i + 1] as number) * 2 ** 32 + ((halves[2 * i] as number) >>> 0);
    if (!Number.isSafeInteger(value)) throw notExact(i, values[i] as bigint);
    out[i] = value;
  }
  return out;
}

function notExact(index: number, value: number | bigint): TunesmithError {
  return new TunesmithError(
    "dtype-unsupported",
    `element ${index} is ${value}, not an integer that both int64 and number hold exactly`,
    { fix: "keep integers between -(2^53 - 1) and 2^53 - 1", details: { index, value } },
  );
}
