import { normalAxis, ops, outputOf, type Value } from "../../graph/index.js";
import type { VjpContext, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";

const axisOf = (context: VjpContext, fallback: number): number => {
  const attr = context.node.attrs.axis;
  return normalAxis(attr && "i" in attr ? Number(attr.i) : fallback, context.dy.shape.length, "axis");
};

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
    const { dy, inputs, outputs, needs } = context;
    const [x, gamma, beta] = inputs as [Value, Value, Value | undefined];
    const axis = axisOf(context, -1);
    const axes = x.shape.flatMap((_, at) => (at >= axis ? [at] : []));
    const [mean, inverseStd] =
      outputs.length === 3 ? [outputOf(context.node, 1), outputOf(context.node, 2)] : statistics(context, axes);
    const normal = ops.mul(ops.sub(x, mean), inverseStd);
    const e = ops.mul(dy, gamma);
    const dx = () => {
      const centred = ops.sub(e, ops.reduceMean(e, axes));
      const along = ops.mul(normal, ops.reduceMean(ops.mul(e, normal), axes));
      return ops.mul(inverseStd, ops.sub(centred, along));
    };
    return [
      needs(0) ? dx() : undefined,
      needs(1) ? unbroadcast(ops.mul(dy, normal), gamma.shape, gamma) : undefined,
      needs(2) && beta ? unbroadcast(dy, beta.shape, beta) : undefined,
    ];
  },
  SimplifiedLayerNormalization: rmsNormRule,
  RMSNormalization: rmsNormRule,
};

/** 1/rms is recomputed: the kernel's second output is wrong on WebGPU. */
function rmsNormRule(context: VjpContext): (Value | undefined)[] {
  const { dy, inputs, needs } = context;
  const [x, gamma] = inputs as [Value, Value];
  const axis = axisOf(context, -1);
  const axes = x.shape.flatMap((_, at) => (at >= axis ? [at] : []));
  const attr = context.node.attrs.epsilon;
  const epsilon = attr && "f" in attr ? attr.f : 1e-5;
  const inverse = ops.reciprocal(ops.sqrt(ops.add(ops.reduceMean(ops.square(x), axes), epsilon)));
  const normal = ops.mul(x, inverse);
  const e = ops.mul(dy, gamma);
  const dx = () => ops.mul(inverse, ops.sub(e, ops.mul(normal, ops.reduceMean(ops.mul(e, normal), axes))));
  return [
    needs(0) ? dx() : undefined,
    needs(1) ? unbroadcast(ops.mul(dy, normal), gamma.shape, gamma) : undefined,
  ];
}

function statistics(context: VjpContext, axes: readonly number[]): [Value, Value] {
  const x = context.inputs[0] as Value;
  const attr = context.node.attrs.epsilon;
  const epsilon = attr && "f" in attr ? attr.f : 1e-5;
  const mean = ops.reduceMean(x, axes);
  const variance = ops.reduceMean(ops.square(ops.sub(x, mean)), axes);
  return [mean, ops.reciprocal(ops.sqrt(ops.add(variance, epsilon)))];
}
