import { normalAxis } from "../dims.js";
import { numbersOf } from "../ints.js";
import type { Dim, Shape } from "../types.js";
import {
  axisAttr,
  type InferContext,
  type InferRule,
  intAttr,
  intsAttr,
  like,
  mismatch,
  need,
  where,
} from "./types.js";

/** Axes of a reduction: input 1 (opset 18, ReduceSum 13) or attribute; none means all unless noop_with_empty_axes. */
export function reductionAxes(
  context: Pick<InferContext, "inputs" | "attrs" | "op" | "domain" | "scope" | "outputs">,
): number[] {
  const x = need(context, 0);
  const given = context.inputs[1] ? numbersOf(context.inputs[1]) : intsAttr(context.attrs, "axes");
  if (context.inputs[1] && !given) throw mismatch(context, "reduction axes must be constant");
  if (!given || given.length === 0) {
    return intAttr(context.attrs, "noop_with_empty_axes", 0) ? [] : x.shape.map((_, axis) => axis);
  }
  return given.map((axis) => normalAxis(axis, x.shape.length, where(context)));
}

const reduce: InferRule = (context) => {
  const x = need(context, 0);
  const axes = reductionAxes(context);
  const keep = intAttr(context.attrs, "keepdims", 1) !== 0;
  const shape: Shape = keep
    ? x.shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim))
    : x.shape.filter((_, axis) => !axes.includes(axis));
  return [like(x, shape)];
};

const arg: InferRule = (context) => {
  const x = need(context, 0);
  const axis = axisAttr(context, "axis", 0, x.shape.length);
  const keep = intAttr(context.attrs, "keepdims", 1) !== 0;
  const shape = keep
    ? x.shape.map((dim, at) => (at === axis ? 1 : dim))
    : x.shape.filter((_, at) => at !== axis);
  return [{ dtype: "int64", shape }];
};

const topk: InferRule = (context) => {
  const x = need(context, 0);
  const axis = axisAttr(context, "axis", -1, x.shape.length);
  const k = numbersOf(context.inputs[1])?.[0] ?? `k_${need(context, 1).id}`;
  const shape: Dim[] = x.shape.map((dim, at) => (at === axis ? k : dim));
  return [like(x, shape), { dtype: "int64", shape }];
};

const NAMES =
  "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp";

export const reductions: Record<string, InferRule> = {
  ...Object.fromEntries(NAMES.split(" ").map((name) => [name, reduce])),
  ArgMax: arg,
  ArgMin: arg,
  TopK: topk,
};
