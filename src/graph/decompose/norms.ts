import { normalAxis } from "../dims.js";
import { floatAttr, intAttr, intsAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Value } from "../types.js";
import { axesFrom, perChannel } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

export const scaleShift = (x: Value, scale: Value, bias: Value): Value => {
  const shape = perChannel(x.shape.length);
  return ops.add(ops.mul(x, ops.reshape(scale, shape)), ops.reshape(bias, shape));
};

/** LayerNormalization without parameters over everything behind axis 2 of `[N, G, rest]`. */
export function normaliseGroups(x: Value, groups: Dim, epsilon: number): Value {
  const flat = ops.reshape(x, [x.shape[0] as Dim, groups, -1]);
  const length = flat.shape[2] as Dim;
  const ones = ops.full([length], 1, x.dtype, [flat]);
  return ops.reshape(ops.layerNorm(flat, ones, undefined, epsilon), x.shape, [x]);
}

const instanceNorm: Decomposition = ([x, scale, bias], node) => {
  const data = x as Value;
  const normal = normaliseGroups(data, data.shape[1] as Dim, floatAttr(node.attrs, "epsilon", 1e-5));
  return [scaleShift(normal, scale as Value, bias as Value)];
};

/** Scale and bias are per channel (opset 21) or per group (opset 18). */
const groupNorm: Decomposition = ([x, scale, bias], node) => {
  const data = x as Value;
  const groups = intAttr(node.attrs, "num_groups", 1);
  const channels = data.shape[1] as Dim;
  const spread = (vector: Value): Value => {
    const length = vector.shape[0] as Dim;
    if (length === channels || typeof channels !== "number") return vector;
    return ops.reshape(ops.expand(ops.unsqueeze(vector, 1), [length, channels / groups]), [channels]);
  };
  const normal = normaliseGroups(data, groups, floatAttr(node.attrs, "epsilon", 1e-5));
  return [scaleShift(normal, spread(scale as Value), spread(bias as Value))];
};

const batchNorm: Decomposition = (inputs, node) => {
  const [x, scale, bias, mean, variance] = inputs as [Value, Value, Value, Value, Value];
  const epsilon = floatAttr(node.attrs, "epsilon", 1e-5);
  if (intAttr(node.attrs, "training_mode", 0) === 0) {
    const factor = ops.div(scale, ops.sqrt(ops.add(variance, epsilon)));
    return [scaleShift(ops.sub(x, ops.reshape(mean, perChannel(x.shape.length))), factor, bias)];
  }
  const axes = [0, ...axesFrom(2, x.shape.length)];
  const centre = ops.reduceMean(x, axes);
  const centred = ops.sub(x, centre);
  const spread = ops.reduceMean(ops.square(centred), axes);
  const y = scaleShift(ops.div(centred, ops.sqrt(ops.add(spread, epsilon))), scale, bias);
  const momentum = floatAttr(node.attrs, "momentum", 0.9);
  const running = (old: Value, now: Value) =>
    ops.add(ops.mul(old, momentum), ops.mul(ops.reshape(now, old.shape, [old]), 1 - momentum));
  return [y, running(mean, centre), running(variance, spread)];
};

const lpNorm: Decomposition = ([x], node) => {
  const data = x as Value;
  const axis = normalAxis(intAttr(node.attrs, "axis", -1), data.shape.length, "LpNormalization");
  const norm =
    intAttr(node.attrs, "p", 2) === 1 ? ops.reduceSum(ops.abs(data), [axis]) : ops.reduceL2(data, [axis]);
  return [ops.div(data, norm)];
};

/** (x - mean) / (std + 1e-9), the constant as ONNX defines the function. */
const meanVarianceNorm: Decomposition = ([x], node) => {
  const data = x as Value;
  const axes = intsAttr(node.attrs, "axes") ?? [0, 2, 3];
  const centred = ops.sub(data, ops.reduceMean(data, axes));
  return [ops.div(centred, ops.add(ops.sqrt(ops.reduceMean(ops.square(centred), axes)), 1e-9))];
};

export const norms: DecompositionTable = {
  InstanceNormalization: instanceNorm,
  GroupNormalization: groupNorm,
  BatchNormalization: batchNorm,
  LpNormalization: lpNorm,
  MeanVarianceNormalization: meanVarianceNorm,
};
