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

export function transpose(x: Value, perm: readonly number[]): Value {
  return perm.every((axis, at) => axis === at) ? x : op("Transpose", [x], { perm: { ints: perm } });
}

/** Swaps the last two axes. */
export function transposeLast(x: Value): Value {
  const rank = x.shape.length;
  return transpose(x, [...Array(rank - 2).keys(), rank - 1, rank - 2]);
}

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

export const unsqueeze = (x: Value, ...axes: number[]): Value => op("Unsqueeze", [x, ints(axes)]);
export const squeeze = (x: Value, ...axes: number[]): Value => op("Squeeze", [x, ints(axes)]);
export const tile = (x: Value, repeats: readonly number[]): Value => op("Tile", [x, ints(repeats)]);
export const shapeOf = (x: Value): Value => op("Shape", [x]);

/** Constant padding; `before`/`after` per axis, negative values crop. */
export const pad = (x: Value, before: readonly number[], after: readonly number[]): Value =>
  op("Pad", [x, ints([...before, ...after])]);

export const axisLength = (x: Value, axis: number): Dim =>
  x.shape[normalAxis(axis, x.shape.length, "axis")] as Dim;
