import { TunesmithError } from "../../errors/index.js";
import { type Dtype, tensor } from "../../tensor/index.js";
import { constant, op } from "../create.js";
import { staticShape } from "../dims.js";
import type { Attrs, Shape, Value } from "../types.js";
import { scalar } from "./base.js";
import { expand } from "./shape.js";

/**
 * Slices of `data` along `axis` at int64 `indices`: the axis is replaced by the shape of `indices`. Negative indices count from the end.
 */
export const gather = (data: Value, indices: Value, axis = 0): Value =>
  op("Gather", [data, indices], axis === 0 ? {} : { axis: { i: axis } });
/** `data[..., indices[...], ...]` on one axis; the result has the shape of `indices`. */
export const gatherElements = (data: Value, indices: Value, axis: number): Value =>
  op("GatherElements", [data, indices], { axis: { i: axis } });
/** Slices of `data` at the index tuples in the last axis of `indices` (ONNX GatherND). */
export const gatherNd = (data: Value, indices: Value): Value => op("GatherND", [data, indices]);

export type Reduction = "none" | "add" | "mul" | "max" | "min";
const reductionAttr = (reduction: Reduction): Attrs =>
  reduction === "none" ? {} : { reduction: { s: reduction } };

/**
 * A copy of `data` with `updates` (of the shape of `indices`) written at `indices` along `axis`, or combined with what is there.
 */
export const scatterElements = (
  data: Value,
  indices: Value,
  updates: Value,
  axis: number,
  reduction: Reduction = "none",
): Value =>
  op("ScatterElements", [data, indices, updates], { axis: { i: axis }, ...reductionAttr(reduction) });
/**
 * A copy of `data` with `updates` written at the index tuples in the last axis of `indices`, or combined with what is there.
 */
export const scatterNd = (
  data: Value,
  indices: Value,
  updates: Value,
  reduction: Reduction = "none",
): Value => op("ScatterND", [data, indices, updates], reductionAttr(reduction));

/** The upper or lower triangle of the last two axes, zeros elsewhere; `k` moves the diagonal upwards. */
export const trilu = (x: Value, upper: boolean, k = 0): Value =>
  op("Trilu", k === 0 ? [x] : [x, scalar(k, "int64")], { upper: { i: upper ? 1 : 0 } });

/** A tensor filled with one value; its symbolic axes are read off `like`. */
export const full = (shape: Shape, value: number, dtype: Dtype, like: readonly Value[] = []): Value =>
  expand(scalar(value, dtype), shape, like);

/** Zeros of the shape and dtype of `x`. */
export const zerosLike = (x: Value): Value => full(x.shape, 0, x.dtype, [x]);

/** `[start, start+1, ...]` of a static length. */
export function arange(length: number, dtype: "int64" | "float32" | "int32" = "int64", start = 0): Value {
  if (!staticShape([length])) throw new TunesmithError("shape-mismatch", "arange needs a static length");
  const values = Array.from({ length }, (_, i) => start + i);
  if (dtype === "int64") return constant(tensor(dtype, [length], BigInt64Array.from(values, BigInt)));
  return constant(
    tensor(dtype, [length], dtype === "int32" ? Int32Array.from(values) : Float32Array.from(values)),
  );
}
