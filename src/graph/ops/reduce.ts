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
export const reduceMean = reduction("ReduceMean");
export const reduceMax = reduction("ReduceMax");
export const reduceMin = reduction("ReduceMin");
export const reduceProd = reduction("ReduceProd");
export const reduceL2 = reduction("ReduceL2");
export const reduceLogSumExp = reduction("ReduceLogSumExp");

export const softmax = (x: Value, axis = -1): Value => op("Softmax", [x], { axis: { i: axis } });
export const logSoftmax = (x: Value, axis = -1): Value => op("LogSoftmax", [x], { axis: { i: axis } });
export const argMax = (x: Value, axis: number, keepdims = true): Value =>
  op("ArgMax", [x], { axis: { i: axis }, keepdims: { i: keepdims ? 1 : 0 } });

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
