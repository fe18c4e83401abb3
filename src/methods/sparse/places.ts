import { ops, type Value } from "../../graph/index.js";
import { addAt } from "../algebra.js";

/** Positions of the `count` numbers of largest magnitude, ascending; of equals the first ones. */
export const largest = (numbers: Float32Array, count: number): Uint32Array =>
  largestOf([numbers], count)[0] as Uint32Array;

/** The same over several arrays together: how many each has among the `count` largest follows from its numbers. */
export function largestOf(arrays: readonly Float32Array[], count: number): Uint32Array[] {
  const { bound, above } = magnitudeAt(arrays, count);
  let ties = count - above;
  return arrays.map((numbers) => {
    const bits = bitsOf(numbers);
    const chosen: number[] = [];
    for (let at = 0; at < bits.length; at++) {
      const size = (bits[at] as number) & SIZE;
      if (size > bound || (size === bound && ties-- > 0)) chosen.push(at);
    }
    return Uint32Array.from(chosen);
  });
}

/** All but the sign: as integers, magnitudes of float32 have the order of the numbers. */
const SIZE = 0x7fffffff;

const bitsOf = ({ buffer, byteOffset, length }: Float32Array) => new Uint32Array(buffer, byteOffset, length);

/**
 * Bits of the `count`-th largest magnitude, and how many are above it; by counting the upper and then the lower halves of
 * the bits, as sorting a whole model would take too long.
 */
function magnitudeAt(arrays: readonly Float32Array[], count: number): { bound: number; above: number } {
  const total = arrays.reduce((sum, { length }) => sum + length, 0);
  if (count <= 0) return { bound: SIZE, above: 0 };
  if (count >= total) return { bound: -1, above: total };
  const tally = (key: (size: number) => number) => {
    const counts = new Uint32Array(1 << 16);
    for (const numbers of arrays)
      for (const bits of bitsOf(numbers)) {
        const at = key(bits & SIZE);
        if (at >= 0) counts[at] = (counts[at] as number) + 1;
      }
    return counts;
  };
  const upper = reach(
    tally((size) => size >>> 16),
    count,
  );
  const lower = reach(
    tally((size) => (size >>> 16 === upper.at ? size & 0xffff : -1)),
    count - upper.above,
  );
  return { bound: (upper.at << 16) | lower.at, above: upper.above + lower.above };
}

/** The bucket, from the top, in which a running count reaches `count`, and the count above it. */
function reach(counts: Uint32Array, count: number): { at: number; above: number } {
  let above = 0;
  let at = counts.length - 1;
  while (above + (counts[at] as number) < count) above += counts[at--] as number;
  return { at, above };
}

/** All numbers of `data` but those at `places` become those of `others`, or zero. */
export function keepOnly(data: Float32Array, places: Uint32Array, others?: Float32Array): void {
  const kept = Float32Array.from(places, (at) => data[at] as number);
  if (others) data.set(others);
  else data.fill(0);
  for (const [k, at] of places.entries()) data[at] = kept[k] as number;
}

/** `weight` `[out, in]` with `values` `[out, k]` added at `columns` int32 `[out, k]` of their rows. */
export function addInRows(weight: Value, columns: Value, values: Value): Value {
  const [out, inn] = weight.shape as [number, number];
  const starts = ops.ints(Array.from({ length: out }, (_, row) => row * inn));
  const places = ops.add(ops.cast(columns, "int64"), ops.unsqueeze(starts, 1));
  return addAt(weight, ops.reshape(places, [-1]), ops.reshape(values, [-1]));
}
