import { tensor } from "../../tensor/index.js";
import { constant, op, withScope } from "../create.js";
import { normalAxis } from "../dims.js";
import { numbersOf } from "../ints.js";
import { cast, ints, scalar } from "../ops/index.js";
import type { Attrs, Value } from "../types.js";
import {
  floatOf,
  intOf,
  intsOf,
  listOf,
  type OpCall,
  operand,
  type Rule,
  type Upgraded,
  unsupported,
  without,
} from "./upgrade-call.js";
import { batchNormalization, dequantizedType, resizeInputs, spaceToDepth } from "./upgrade-compound.js";

/**
 * Brings an operator of an older ONNX operator set to the form of opset 21, so that everything above knows one form
 * only. Changes that keep the meaning of old files (more dtypes, new optional attributes) need no rule. Dropout of
 * any version becomes its input: models are loaded for inference, and training feeds its masks from outside.
 *
 * @param version Operator set version of the file.
 */
export function upgrade(call: OpCall, version: number, scope: string): Upgraded {
  return withScope(scope, () => {
    let current = call;
    for (const [below, rule] of RULES[call.op] ?? []) {
      if (version >= below) continue;
      const result = rule(current, version);
      if (Array.isArray(result)) return result;
      current = result as OpCall;
    }
    return current;
  });
}

const ALWAYS = Number.POSITIVE_INFINITY;

const drop =
  (...names: string[]): Rule =>
  (call) => ({ ...call, attrs: without(call.attrs, ...names) });

/** An int-list attribute that became input `index`. */
const listToInput =
  (name: string, index: number): Rule =>
  (call) => {
    const list = listOf(call.attrs[name]);
    const attrs = without(call.attrs, name);
    if (!list || call.inputs[index]) return { ...call, attrs };
    const inputs = [...call.inputs];
    inputs[index] = list;
    return { ...call, inputs, attrs };
  };

/** Softmax and its kin before opset 13 normalise over all axes from `axis` (default 1) on. */
const softmax: Rule = (call) => {
  const x = operand(call, 0);
  const rank = x.shape.length;
  const axis = normalAxis(intOf(call.attrs.axis, 1), rank, call.op);
  if (axis === rank - 1) return { ...call, attrs: { axis: { i: -1 } } };
  const flat = op(call.op, [op("Flatten", [x], { axis: { i: axis } })], { axis: { i: -1 } });
  return [op("Reshape", [flat, op("Shape", [x])])];
};

/** Before opset 7 the second operand is broadcast only on request, from `axis` on instead of from the right. */
const broadcast: Rule = (call) => {
  const attrs = without(call.attrs, "broadcast", "axis", "consumed_inputs");
  const axis = call.attrs.axis;
  if (!intOf(call.attrs.broadcast, 0) || axis === undefined) return { ...call, attrs };
  const [a, b] = [operand(call, 0), operand(call, 1)];
  const start = normalAxis(intOf(axis, 0), a.shape.length, call.op);
  const missing = a.shape.length - start - b.shape.length;
  if (missing <= 0) return { ...call, attrs };
  const axes = Array.from({ length: missing }, (_, index) => b.shape.length + index);
  return { ...call, attrs, inputs: [a, op("Unsqueeze", [b, ints(axes)])] };
};

const clip: Rule = (call) => {
  const x = operand(call, 0);
  const bound = (name: string) =>
    call.attrs[name] && constant(tensor(x.dtype, [], [floatOf(call.attrs[name], 0)]));
  return { ...call, inputs: [x, bound("min"), bound("max")], attrs: {} };
};

/** The input itself; the mask, if anyone reads it, is all true. */
const dropout: Rule = (call) => {
  const x = operand(call, 0);
  if (call.outputs < 2) return [x];
  const mask = op("Expand", [constant(tensor("bool", [], [true])), op("Shape", [x])]);
  return [x, mask];
};

const sliceAttributes: Rule = (call) => {
  const [starts, ends, axes] = ["starts", "ends", "axes"].map((name) => listOf(call.attrs[name]));
  if (!starts || !ends) return call;
  const inputs = [operand(call, 0), starts, ends, ...(axes ? [axes] : [])];
  return { ...call, inputs, attrs: {} };
};

const pad: Rule = (call) => {
  const pads = intsOf(call.attrs.pads ?? call.attrs.paddings);
  if (!pads) return call;
  const x = operand(call, 0);
  const value = floatOf(call.attrs.value, 0);
  const attrs = without(call.attrs, "pads", "paddings", "value");
  return {
    ...call,
    attrs,
    inputs: value === 0 ? [x, ints(pads)] : [x, ints(pads), constant(tensor(x.dtype, [], [value]))],
  };
};

const topK: Rule = (call) => {
  const k = call.attrs.k;
  return k
    ? { ...call, inputs: [operand(call, 0), ints([intOf(k, 1)])], attrs: without(call.attrs, "k") }
    : call;
};

const OLD_RESIZE: Attrs = {
  coordinate_transformation_mode: { s: "asymmetric" },
  nearest_mode: { s: "floor" },
};

const upsample: Rule = (call) => {
  const list = call.attrs.scales;
  const scales =
    list && "floats" in list
      ? constant(tensor("float32", [list.floats.length], [...list.floats]))
      : operand(call, 1);
  const { mode } = call.attrs;
  const linear = mode && "s" in mode && /linear$/.test(mode.s);
  const attrs: Attrs = { mode: { s: linear ? "linear" : "nearest" }, ...OLD_RESIZE };
  return { op: "Resize", inputs: [operand(call, 0), undefined, scales], attrs, outputs: 1 };
};

const oldResize: Rule = (call) => ({
  ...call,
  inputs: [operand(call, 0), undefined, operand(call, 1)],
  attrs: { ...call.attrs, ...OLD_RESIZE },
});

const splitSizes: Rule = (call, version) => {
  const listed = listToInput("split", 1)(call, version) as OpCall;
  if (listed.inputs[1]) return listed;
  return { ...listed, attrs: { ...listed.attrs, num_outputs: { i: call.outputs } } };
};

const castName: Rule = (call) => {
  const { to } = call.attrs;
  if (!to || !("s" in to)) return call;
  const names =
    "UNDEFINED FLOAT UINT8 INT8 UINT16 INT16 INT32 INT64 STRING BOOL FLOAT16 DOUBLE UINT32 UINT64".split(" ");
  return { ...call, attrs: { to: { i: names.indexOf(to.s.toUpperCase()) } } };
};

/** [groups] became [channels] at opset 21. */
const groupNormalization: Rule = (call) => {
  const x = operand(call, 0);
  const groups = intOf(call.attrs.num_groups, 1);
  const channels = x.shape[1];
  if (typeof channels !== "number") throw unsupported(call, "a symbolic number of channels");
  const spread = (value: Value) => {
    const column = op("Unsqueeze", [value, ints([1])]);
    return op("Reshape", [op("Expand", [column, ints([groups, channels / groups])]), ints([channels])]);
  };
  return { ...call, inputs: [x, spread(operand(call, 1)), spread(operand(call, 2))] };
};

const prelu: Rule = (call) => {
  const [x, slope] = [operand(call, 0), operand(call, 1)];
  const attrs = without(call.attrs, "consumed_inputs");
  if (slope.shape.length !== 1 || slope.shape[0] === 1 || x.shape.length < 3) return { ...call, attrs };
  const axes = Array.from({ length: x.shape.length - 2 }, (_, index) => index + 1);
  return { ...call, attrs, inputs: [x, op("Unsqueeze", [slope, ints(axes)])] };
};

const gridSample: Rule = (call) => {
  const { mode } = call.attrs;
  const text = mode && "s" in mode ? mode.s : "bilinear";
  const renamed = { bilinear: "linear", bicubic: "cubic" }[text] ?? text;
  return { ...call, attrs: { ...call.attrs, mode: { s: renamed } } };
};

const reshapeAttribute: Rule = (call) => {
  const shape = intsOf(call.attrs.shape);
  return shape ? { ...call, inputs: [operand(call, 0), ints(shape)], attrs: {} } : call;
};

/** `k` and axes of old tile-like operators must be known; a plain number input becomes a list. */
const tile: Rule = (call) => {
  const [tiles, axis] = [numbersOf(call.inputs[1]), numbersOf(call.inputs[2])];
  const x = operand(call, 0);
  if (!tiles || !axis) throw unsupported(call, "run-time tiles and axis");
  const repeats = x.shape.map((_, at) => (at === axis[0] ? (tiles[0] as number) : 1));
  return { ...call, inputs: [x, ints(repeats)] };
};

const oldScan: Rule = (call) => {
  throw unsupported(call, "the batched form");
};

const roiAlign: Rule = (call) => ({
  ...call,
  attrs: { coordinate_transformation_mode: { s: "output_half_pixel" }, ...call.attrs },
});

/** The axis of DFT became an input at opset 20; before, it defaulted to 1. */
const dft: Rule = (call) => {
  const axis = scalar(intOf(call.attrs.axis, 1), "int64");
  return { ...call, inputs: [call.inputs[0], call.inputs[1], axis], attrs: without(call.attrs, "axis") };
};

/** Cumulative and comparison operators of opset 6 and before worked on fewer types but alike. */
const powTypes: Rule = (call) => {
  const [x, exponent] = [operand(call, 0), operand(call, 1)];
  return { ...call, inputs: [x, cast(exponent, x.dtype)] };
};

const rename =
  (to: string): Rule =>
  (call) => ({ ...call, op: to });

const concatAxis: Rule = (call) => ({ ...call, attrs: { axis: { i: 1 }, ...call.attrs } });

/** An experimental operator of opset 1 that style transfer models still use: x * scale + bias per channel. */
const imageScaler: Rule = (call) => {
  const x = operand(call, 0);
  const { bias } = call.attrs;
  const scaled = op("Mul", [x, constant(tensor(x.dtype, [], [floatOf(call.attrs.scale, 1)]))]);
  if (!bias || !("floats" in bias)) return [scaled];
  return [op("Add", [scaled, constant(tensor(x.dtype, [bias.floats.length, 1, 1], [...bias.floats]))])];
};

const scaled = (x: Value, factor: number) => op("Mul", [x, constant(tensor(x.dtype, [], [factor]))]);

/** Experimental activations of opset 1: alpha * x + beta, alpha * tanh(beta * x), alpha * ln(1 + exp(beta * x)). */
const affine: Rule = (call) => {
  const x = operand(call, 0);
  const shift = constant(tensor(x.dtype, [], [floatOf(call.attrs.beta, 0)]));
  return [op("Add", [scaled(x, floatOf(call.attrs.alpha, 1)), shift])];
};
const scaledActivation =
  (name: string): Rule =>
  (call) => {
    const inner = op(name, [scaled(operand(call, 0), floatOf(call.attrs.beta, 1))]);
    return [scaled(inner, floatOf(call.attrs.alpha, 1))];
  };

/** Cuts [left, top, right, bottom] off an image, or a piece of size `scale` out of it. */
const crop: Rule = (call) => {
  const [left = 0, top = 0, right = 0, bottom = 0] = intsOf(call.attrs.border) ?? [];
  const [height, width] = intsOf(call.attrs.scale) ?? [];
  const end = (start: number, size: number | undefined, cut: number) =>
    size ? start + size : cut ? -cut : 2 ** 31 - 1;
  const ends = [end(top, height, bottom), end(left, width, right)];
  return {
    ...call,
    op: "Slice",
    attrs: {},
    inputs: [operand(call, 0), ints([top, left]), ints(ends), ints([2, 3])],
  };
};

type Table = Record<string, readonly (readonly [below: number, rule: Rule])[]>;

const each = (names: string, ...rules: Table[string]): Table =>
  Object.fromEntries(names.split(" ").map((name) => [name, rules]));

/** For each operator the rules in order of application, with the opset from which on they are not needed. */
const RULES: Table = {
  ...each("Softmax LogSoftmax Hardmax", [13, softmax]),
  ...each("Squeeze Unsqueeze ReduceSum", [13, listToInput("axes", 1)]),
  ...each(
    "ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp",
    [18, listToInput("axes", 1)],
  ),
  ...each("Add Sub Mul Div And Or Xor Equal Less Greater", [7, broadcast]),
  Pow: [
    [7, broadcast],
    [7, powTypes],
  ],
  ...each(
    "Abs Ceil Elu Exp Floor HardSigmoid LeakyRelu Log Max Mean Min Neg Reciprocal Relu Selu Sigmoid Sqrt Sum Tanh InstanceNormalization",
    [8, drop("consumed_inputs")],
  ),
  Split: [[18, splitSizes]],
  Clip: [[11, clip]],
  Dropout: [[ALWAYS, dropout]],
  Slice: [[10, sliceAttributes]],
  Pad: [[11, pad]],
  TopK: [[10, topK]],
  Upsample: [[ALWAYS, upsample]],
  Resize: [
    [11, oldResize],
    [ALWAYS, resizeInputs],
  ],
  BatchNormalization: [[14, batchNormalization]],
  Gemm: [[7, drop("broadcast")]],
  Reshape: [[5, reshapeAttribute]],
  Concat: [[4, concatAxis]],
  Scatter: [[ALWAYS, rename("ScatterElements")]],
  GroupNormalization: [[21, groupNormalization]],
  PRelu: [[7, prelu]],
  GridSample: [[20, gridSample]],
  Tile: [[6, tile]],
  Scan: [[9, oldScan]],
  RoiAlign: [[16, roiAlign]],
  SpaceToDepth: [[ALWAYS, spaceToDepth]],
  DequantizeLinear: [[ALWAYS, dequantizedType]],
  QuantizeLinear: [[ALWAYS, drop("precision")]],
  Range: [[ALWAYS, drop("stash_type")]],
  Cast: [
    [6, castName],
    [ALWAYS, drop("round_mode")],
  ],
  CastLike: [[ALWAYS, drop("round_mode")]],
  DFT: [[20, dft]],
  ImageScaler: [[ALWAYS, imageScaler]],
  Crop: [[ALWAYS, crop]],
  Affine: [[ALWAYS, affine]],
  ScaledTanh: [[ALWAYS, scaledActivation("Tanh")]],
  ParametricSoftplus: [[ALWAYS, scaledActivation("Softplus")]],
  ...each("RNN GRU LSTM", [7, drop("output_sequence")]),
};

/** The operator sets below which an operator is rewritten; infinity where it always is. */
export const upgradedBelow = (name: string): readonly number[] => (RULES[name] ?? []).map(([below]) => below);
