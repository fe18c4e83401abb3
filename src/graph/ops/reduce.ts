import { makeNode, op } from "../create.js";
import type { Attrs, Value } from "../types.js";
import { ints } from "./base.js";

const reduction =
  (name: string) =>
  (x: Value, axes?: readonly number[], keepdims = true): Value => {
    const attrs: Attrs = keepdims ? {} : { keepdims: { i: 0 } };
    return op(name, axes ? [x, ints(axes)] : [x], attrs);
  };

/** Reductions over `axes` (all when omitted); axes are kept with length 1 unless `keepdims` is false. */
export const reduceSum = reduction("ReduceSum");
/** Mean; axes as in `reduceSum`. */
export const reduceMean = reduction("ReduceMean");
/** Maximum; axes as in `reduceSum`. Equal maxima share the gradient. */
export const reduceMax = reduction("ReduceMax");
/** Minimum; axes as in `reduceSum`. Equal minima share the gradient. */
export const reduceMin = reduction("ReduceMin");
/** Product; axes as in `reduceSum`. */
export const reduceProd = reduction("ReduceProd");
/** Euclidean norm; axes as in `reduceSum`. */
export const reduceL2 = reduction("ReduceL2");
/** log Σ eˣ; axes as in `reduceSum`. */
export const reduceLogSumExp = reduction("ReduceLogSumExp");

/** eˣ / Σ eˣ along one axis. */
export const softmax = (x: Value, axis = -1): Value => op("Softmax", [x], { axis: { i: axis } });
/** x − log Σ eˣ along one axis. */
export const logSoftmax = (x: Value, axis = -1): Value => op("LogSoftmax", [x], { axis: { i: axis } });
/** int64 index of the first maximum along `axis`; no gradient flows through it. */
export const argMax = (x: Value, axis: number, keepdims = true): Value =>
  op("ArgMax", [x], { axis: { i: axis }, keepdims: { i: keepdims ? 1 : 0 } });

/** Running sum along `axis`; `exclusive` leaves the element itself out, `reverse` starts at the end. */
export const cumSum = (
  x: Value,
  axis: number,
  options: { exclusive?: boolean; reverse?: boolean } = {},
): Value => {
  const at = ints([axis]);
  return op("CumSum", [x, at], {
    exclusive: { i: options.exclusive ? 1 : 0 },
    reverse: { i: options.reverse ? 1 : 0 },
  });
};

/** The `k` largest along `axis`: values and int64 indices. */
export function topK(x: Value, k: number, axis = -1): { values: Value; indices: Value } {
  const [values, indices] = makeNode("TopK", [x, ints([k])], { axis: { i: axis } }).outputs as [Value, Value];
  return { values, indices };
}
