import { makeNode, op } from "../create.js";
import { normalAxis, sameShape } from "../dims.js";
import type { Dim, Shape, Value } from "../types.js";
import { ints, shapeTensor } from "./base.js";

const MAX_END = 2 ** 31 - 1;

/** Reshape to axes that may be symbolic (read off `x` and `like`) or one `-1`. */
export function reshape(x: Value, shape: Shape, like: readonly Value[] = []): Value {
  return sameShape(x.shape, shape) ? x : op("Reshape", [x, shapeTensor(shape, [x, ...like])]);
}

/** Expand to `shape`. */
export function expand(x: Value, shape: Shape, like: readonly Value[] = []): Value {
  return sameShape(x.shape, shape) ? x : op("Expand", [x, shapeTensor(shape, [x, ...like])]);
}

/** Axes in another order: output axis i is input axis `perm[i]`. */
export function transpose(x: Value, perm: readonly number[]): Value {
  return perm.every((axis, at) => axis === at) ? x : op("Transpose", [x], { perm: { ints: perm } });
}

/** Swaps the last two axes. */
export function transposeLast(x: Value): Value {
  const rank = x.shape.length;
  return transpose(x, [...Array(rank - 2).keys(), rank - 1, rank - 2]);
}

/** Values one after the other along `axis`. */
export const concat = (values: readonly Value[], axis: number): Value =>
  values.length === 1 ? (values[0] as Value) : op("Concat", values, { axis: { i: axis } });

/** Cuts `axis` into pieces of the given sizes. */
export const split = (x: Value, sizes: readonly number[], axis: number): readonly Value[] =>
  makeNode("Split", [x, ints(sizes)], { axis: { i: axis } }, { outputs: sizes.length }).outputs;

/** `x[..., start:end:step, ...]` on one axis; `end` may be left open. */
export function slice(x: Value, axis: number, start: number, end: number = MAX_END, step = 1): Value {
  const inputs = [x, ints([start]), ints([end]), ints([normalAxis(axis, x.shape.length, "slice")])];
  return op("Slice", step === 1 ? inputs : [...inputs, ints([step])]);
}

/** New axes of length 1 at these positions of the result. */
export const unsqueeze = (x: Value, ...axes: number[]): Value => op("Unsqueeze", [x, ints(axes)]);
/** The value without these axes, which must have length 1. */
export const squeeze = (x: Value, ...axes: number[]): Value => op("Squeeze", [x, ints(axes)]);
/** The value repeated so many times along each axis. */
export const tile = (x: Value, repeats: readonly number[]): Value => op("Tile", [x, ints(repeats)]);
/** The run-time shape as an int64 vector. */
export const shapeOf = (x: Value): Value => op("Shape", [x]);

/** Constant padding; `before`/`after` per axis, negative values crop. */
export const pad = (x: Value, before: readonly number[], after: readonly number[]): Value =>
  op("Pad", [x, ints([...before, ...after])]);

/**
 * Length of an axis as the graph knows it: a number, or the name of a symbolic axis. Negative axes count from the end.
 */
export const axisLength = (x: Value, axis: number): Dim =>
  x.shape[normalAxis(axis, x.shape.length, "axis")] as Dim;
