import { normalAxis, ops, outputOf, type Value } from "../../graph/index.js";
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
    const [dy, toMean, toInverse] = dys;
    const parts = needs(0)
      ? [
          dy && inputGradient(dy, gamma, normal, inverseStd, axes, true),
          toMean && average(toMean, x, axes),
          toInverse && ofInverse(toInverse, normal, inverseStd, axes),
        ]
      : [];
    return [
      total(parts),
      needs(1) && dy ? unbroadcast(ops.mul(dy, normal), gamma.shape, gamma) : undefined,
      needs(2) && beta && dy ? unbroadcast(dy, beta.shape, beta) : undefined,
    ];
  },
  RMSNormalization: rmsNorm,
  SimplifiedLayerNormalization: rmsNorm,
};

/** y = x·is·gamma with is = 1/sqrt(mean(x²) + eps). The kernel's own `is` output is wrong on WebGPU: recomputed. */
function rmsNorm(context: VjpContext): (Value | undefined)[] {
  const { dys, inputs, needs } = context;
  const [x, gamma] = inputs as [Value, Value];
  const axes = axesOf(context);
  const inverse = inverseRoot(ops.reduceMean(ops.square(x), axes), context);
  const normal = ops.mul(x, inverse);
  const [dy, toInverse] = dys;
  const parts = needs(0)
    ? [
        dy && inputGradient(dy, gamma, normal, inverse, axes, false),
        toInverse && ofInverse(toInverse, normal, inverse, axes),
      ]
    : [];
  return [total(parts), needs(1) && dy ? unbroadcast(ops.mul(dy, normal), gamma.shape, gamma) : undefined];
}

const total = (parts: readonly (Value | undefined)[]): Value | undefined =>
  parts.reduce((sum, part) => (sum && part ? ops.add(sum, part) : (sum ?? part)), undefined);

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

/** A gradient per group as a mean over it: what each element gets of d(mean)/dx. */
const average = (value: Value, x: Value, axes: readonly number[]): Value => {
  const spread = ops.expand(ops.cast(value, x.dtype), x.shape, [x]);
  const lengths = axes.map((axis) => x.shape[axis] ?? 1);
  if (lengths.every((length) => typeof length === "number"))
    return ops.div(
      spread,
      lengths.reduce((a, b) => a * b, 1),
    );
  const count = ops.reduceProd(ops.gather(ops.shapeOf(x), ops.ints(axes)), undefined, false);
  return ops.div(spread, ops.cast(count, x.dtype));
};

/** What arrives at 1/std (second derivatives read it): is' = -is²·normal/n. */
const ofInverse = (gradient: Value, normal: Value, inverse: Value, axes: readonly number[]): Value =>
  ops.neg(
    ops.mul(average(ops.mul(ops.cast(gradient, normal.dtype), ops.square(inverse)), normal, axes), normal),
  );

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
