import { normalAxis, op, ops, outputOf, type Value } from "../../graph/index.js";
import { floatAttr, intAttr } from "../../graph/infer/types.js";
import type { VjpContext, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";

const axisOf = (context: VjpContext, fallback: number): number =>
  normalAxis(intAttr(context.node.attrs, "axis", fallback), context.dy.shape.length, "axis");

export const normalization: VjpTable = {
  Softmax: (context) => {
    const y = context.outputs[0] as Value;
    const weighted = ops.mul(context.dy, y);
    const total = ops.reduceSum(weighted, [axisOf(context, -1)]);
    return [ops.sub(weighted, ops.mul(y, total))];
  },
  LogSoftmax: (context) => {
    const y = context.outputs[0] as Value;
    const total = ops.reduceSum(context.dy, [axisOf(context, -1)]);
    return [ops.sub(context.dy, ops.mul(ops.exp(y), total))];
  },
  LayerNormalization: (context) => {
    const { dys, inputs, needs } = context;
    const [x, gamma, beta] = inputs as [Value, Value, Value | undefined];
    const axes = axesOf(context);
    const [mean, inverseStd] = statistics(context, axes);
    const normal = ops.mul(ops.sub(x, mean), inverseStd);
    const dy = dys[0];
    const parts = needs(0)
      ? [
          dy && inputGradient(dy, gamma, normal, inverseStd, axes, true),
          ...ofStatistics(context, normal, inverseStd),
        ]
      : [];
    return [
      parts.reduce((sum, part) => (sum && part ? ops.add(sum, part) : (sum ?? part)), undefined),
      needs(1) && dy ? unbroadcast(ops.mul(dy, normal), gamma.shape, gamma) : undefined,
      needs(2) && beta && dy ? unbroadcast(dy, beta.shape, beta) : undefined,
    ];
  },
  RMSNormalization: rmsNorm,
  SimplifiedLayerNormalization: rmsNorm,
};

/** y = x·is·gamma with is = 1/sqrt(mean(x²) + eps). The kernel's own `is` output is wrong on WebGPU: recomputed. */
function rmsNorm(context: VjpContext): (Value | undefined)[] {
  const { dy, inputs, needs } = context;
  const [x, gamma] = inputs as [Value, Value];
  const axes = axesOf(context);
  const inverse = inverseRoot(ops.reduceMean(ops.square(x), axes), context);
  const normal = ops.mul(x, inverse);
  return [
    needs(0) ? inputGradient(dy, gamma, normal, inverse, axes, false) : undefined,
    needs(1) ? unbroadcast(ops.mul(dy, normal), gamma.shape, gamma) : undefined,
  ];
}

/** is·(e - [mean(e)] - normal·mean(e·normal)) with e = d·gamma. */
function inputGradient(
  dy: Value,
  gamma: Value,
  normal: Value,
  inverse: Value,
  axes: readonly number[],
  centre: boolean,
): Value {
  const e = ops.mul(dy, gamma);
  const centred = centre ? ops.sub(e, ops.reduceMean(e, axes)) : e;
  const along = ops.mul(normal, ops.reduceMean(ops.mul(e, normal), axes));
  return ops.mul(inverse, ops.sub(centred, along));
}

/** What arrives at the mean and 1/std outputs (second derivatives read them): mean' = 1/n, is' = -is²·normal/n. */
function ofStatistics(
  { dys, inputs, outputs }: VjpContext,
  normal: Value,
  inverse: Value,
): (Value | undefined)[] {
  const x = inputs[0] as Value;
  const [toMean, toInverse] = [dys[1], dys[2]];
  if (!toMean && !toInverse) return [];
  const statistic = outputs[1] as Value;
  const average = (value: Value) => {
    const spread = ops.expand(ops.cast(value, x.dtype), x.shape, [x]);
    const count = ops.div(ops.cast(op("Size", [x]), x.dtype), ops.cast(op("Size", [statistic]), x.dtype));
    return ops.div(spread, count);
  };
  return [
    toMean && average(toMean),
    toInverse &&
      ops.neg(ops.mul(average(ops.mul(ops.cast(toInverse, x.dtype), ops.square(inverse))), normal)),
  ];
}

const axesOf = (context: VjpContext): number[] => {
  const { length } = (context.inputs[0] as Value).shape;
  const from = normalAxis(intAttr(context.node.attrs, "axis", -1), length, "axis");
  return Array.from({ length: length - from }, (_, at) => from + at);
};

const inverseRoot = (variance: Value, { node }: VjpContext): Value =>
  ops.reciprocal(ops.sqrt(ops.add(variance, floatAttr(node.attrs, "epsilon", 1e-5))));

/** Mean and 1/std: the node's own outputs where it has them, in the dtype of x. Those of a double norm are too coarse. */
function statistics(context: VjpContext, axes: readonly number[]): [Value, Value] {
  const x = context.inputs[0] as Value;
  if (context.outputs.length === 3 && x.dtype !== "float64") {
    return [ops.cast(outputOf(context.node, 1), x.dtype), ops.cast(outputOf(context.node, 2), x.dtype)];
  }
  const mean = ops.reduceMean(x, axes);
  return [mean, inverseRoot(ops.reduceMean(ops.square(ops.sub(x, mean)), axes), context)];
}
