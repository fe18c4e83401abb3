import { axisAttr, type InferRule, like, need } from "./types.js";

/** LayerNormalization: y, and on request the mean and 1/std over the normalised axes, always in single precision. */
const layerNorm: InferRule = (context) => {
  const x = need(context, 0);
  const axis = axisAttr(context, "axis", -1, x.shape.length);
  const statistics = { dtype: "float32" as const, shape: x.shape.map((dim, at) => (at >= axis ? 1 : dim)) };
  return [like(x), statistics, statistics].slice(0, context.outputs ?? 1);
};

const first: InferRule = (context) => [like(need(context, 0))];

/** y, then on request the statistics that this version of the operator reports, then (skip variants) the sum. */
const skipNorm: InferRule = (context) => {
  const x = need(context, 0);
  const stats = {
    dtype: "float32" as const,
    shape: x.shape.map((dim, at) => (at === x.shape.length - 1 ? 1 : dim)),
  };
  return [like(x), stats, stats, like(x)].slice(0, context.outputs ?? 1);
};

/** Inference: y. Training mode: y and the running mean and variance. */
const batchNorm: InferRule = (context) => {
  const [x, mean, variance] = [need(context, 0), need(context, 3), need(context, 4)];
  return [like(x), like(mean), like(variance)].slice(0, context.outputs ?? 1);
};

const dropout: InferRule = (context) => {
  const x = need(context, 0);
  return [like(x), { dtype: "bool" as const, shape: x.shape }].slice(0, context.outputs ?? 1);
};

export const normalization: Record<string, InferRule> = {
  LayerNormalization: layerNorm,
  RMSNormalization: first,
  SimplifiedLayerNormalization: first,
  InstanceNormalization: first,
  GroupNormalization: first,
  LpNormalization: first,
  MeanVarianceNormalization: first,
  BatchNormalization: batchNorm,
  Dropout: dropout,
  "com.microsoft.SkipLayerNormalization": skipNorm,
  "com.microsoft.SkipSimplifiedLayerNormalization": skipNorm,
};
