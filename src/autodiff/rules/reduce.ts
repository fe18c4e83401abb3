import { op, ops, type Value } from "../../graph/index.js";
import { reductionAxes } from "../../graph/infer/reduce.js";
import { intAttr } from "../../graph/infer/types.js";
import type { VjpContext, VjpRule, VjpTable } from "../types.js";
import { mask } from "./combinators.js";

const axesOf = (context: VjpContext): number[] => reductionAxes({ ...context.node, outputs: undefined });

/** Reduces over axes that are known; none leave the value as it is. */
const over = (reduce: typeof ops.reduceSum, x: Value, axes: readonly number[]): Value =>
  axes.length > 0 ? reduce(x, axes) : x;

/** A reduction's result or gradient with the reduced axes put back as length 1. */
export function withReducedAxes(value: Value, context: VjpContext): Value {
  if (intAttr(context.node.attrs, "keepdims", 1) !== 0) return value;
  const axes = axesOf(context);
  return axes.length > 0 ? ops.unsqueeze(value, ...axes) : value;
}

const spread = (context: VjpContext): Value => {
  const x = context.inputs[0] as Value;
  return ops.expand(withReducedAxes(context.dy, context), x.shape, [x]);
};

/** d times a factor written from x and the result, all broadcastable to x. */
const scaled =
  (factor: (x: Value, y: Value, context: VjpContext) => Value): VjpRule =>
  (context) => {
    const x = context.inputs[0] as Value;
    const y = withReducedAxes(context.outputs[0] as Value, context);
    return [ops.mul(withReducedAxes(context.dy, context), factor(x, y, context))];
  };

/** The elements that attain the extreme share the gradient evenly. */
const extreme = scaled((x, y, context) => {
  const hits = mask(ops.equal(x, y), x);
  return ops.div(hits, over(ops.reduceSum, hits, axesOf(context)));
});

/** Product of the other elements: y/x without zeros, and right also where one or more elements are zero. */
const product = scaled((x, _, context) => {
  const axes = axesOf(context);
  const zero = ops.equal(x, 0);
  const filled = ops.where(zero, 1, x);
  const others = ops.div(over(ops.reduceProd, filled, axes), filled);
  const zerosElsewhere = ops.sub(over(ops.reduceSum, mask(zero, x), axes), mask(zero, x));
  return ops.where(ops.equal(zerosElsewhere, 0), others, 0);
});

export const reductions: VjpTable = {
  ReduceSum: (context) => [spread(context)],
  ReduceMean: (context) => {
    const x = context.inputs[0] as Value;
    const axes = axesOf(context);
    const lengths = axes.map((axis) => x.shape[axis]);
    if (lengths.every((length) => typeof length === "number")) {
      const count = (lengths as number[]).reduce((a, b) => a * b, 1);
      return [ops.expand(ops.div(withReducedAxes(context.dy, context), count), x.shape, [x])];
    }
    const count = ops.reduceProd(ops.gather(ops.shapeOf(x), ops.ints(axes)), undefined, false);
    return [ops.div(spread(context), ops.cast(count, x.dtype))];
  },
  ReduceMax: extreme,
  ReduceMin: extreme,
  ReduceProd: product,
  ReduceL1: scaled((x) => ops.sign(x)),
  /** 0 where the norm is 0. */
  ReduceL2: scaled((x, y) => ops.div(x, ops.where(ops.equal(y, 0), 1, y))),
  ReduceSumSquare: scaled((x) => ops.mul(x, 2)),
  ReduceLogSum: (context) => {
    const x = context.inputs[0] as Value;
    const share = ops.div(withReducedAxes(context.dy, context), over(ops.reduceSum, x, axesOf(context)));
    return [ops.expand(share, x.shape, [x])];
  },
  ReduceLogSumExp: scaled((x, y) => ops.exp(ops.sub(x, y))),
  CumSum: ({ dy, inputs, node }) => {
    const reverse = intAttr(node.attrs, "reverse", 0) === 0 ? 1 : 0;
    return [op("CumSum", [dy, inputs[1]], { ...node.attrs, reverse: { i: reverse } })];
  },
};
