import { ops, type Value } from "../../graph/index.js";
import { addAt } from "../algebra.js";

type Numbers = Float32Array | Float64Array;

/** Positions of the `count` numbers of largest magnitude, ascending; of equals the first ones. */
export function largest(numbers: Numbers, count: number): Uint32Array {
  if (count >= numbers.length) return Uint32Array.from(numbers.keys());
  const bound = magnitudeAt(numbers, count);
  const chosen = new Uint32Array(count);
  let above = 0;
  for (const value of numbers) if (Math.abs(value) > bound) above++;
  let ties = count - above;
  let filled = 0;
  for (let at = 0; at < numbers.length && filled < count; at++) {
    const size = Math.abs(numbers[at] as number);
    if (size > bound || (size === bound && ties-- > 0)) chosen[filled++] = at;
  }
  return chosen;
}

/** The `count`-th largest magnitude: every number of the answer of `largest` has at least this one. */
function magnitudeAt(numbers: Numbers, count: number): number {
  if (count === 0) return Number.POSITIVE_INFINITY;
  const sizes = numbers.map((value) => Math.abs(value)).sort();
  return sizes[sizes.length - count] as number;
}

/** `weight` `[out, in]` with `values` `[out, k]` added at `columns` int32 `[out, k]` of their rows. */
export function addInRows(weight: Value, columns: Value, values: Value): Value {
  const [out, inn] = weight.shape as [number, number];
  const starts = ops.ints(Array.from({ length: out }, (_, row) => row * inn));
  const places = ops.add(ops.cast(columns, "int64"), ops.unsqueeze(starts, 1));
  return addAt(weight, ops.reshape(places, [-1]), ops.reshape(values, [-1]));
}
