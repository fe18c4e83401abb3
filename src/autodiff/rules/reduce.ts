import { ops, type Value } from "../../graph/index.js";
import { reductionAxes } from "../../graph/infer/reduce.js";
import type { VjpContext, VjpTable } from "../types.js";

const keepsDims = (context: VjpContext): boolean => {
  const attr = context.node.attrs.keepdims;
  return !(attr && "i" in attr && Number(attr.i) === 0);
};

/** A reduction's result or gradient with the reduced axes put back as length 1. */
export function withReducedAxes(value: Value, context: VjpContext): Value {
  if (keepsDims(context)) return value;
  const axes = reductionAxes({ ...context.node, outputs: undefined });
  return axes.length > 0 ? ops.unsqueeze(value, ...axes) : value;
}

const spread = (context: VjpContext): Value => {
  const x = context.inputs[0] as Value;
  return ops.expand(withReducedAxes(context.dy, context), x.shape, [x]);
};

export const reductions: VjpTable = {
  ReduceSum: (context) => [spread(context)],
  ReduceMean: (context) => {
    const x = context.inputs[0] as Value;
    const axes = reductionAxes({ ...context.node, outputs: undefined });
    const lengths = axes.map((axis) => x.shape[axis]);
    if (lengths.every((length) => typeof length === "number")) {
      const count = (lengths as number[]).reduce((a, b) => a * b, 1);
      return [ops.expand(ops.div(withReducedAxes(context.dy, context), count), x.shape, [x])];
    }
    const count = ops.reduceProd(ops.gather(ops.shapeOf(x), ops.ints(axes)), undefined, false);
    return [ops.div(spread(context), ops.cast(count, x.dtype))];
  },
};
