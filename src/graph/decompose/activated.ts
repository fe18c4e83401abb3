import { op } from "../create.js";
import { floatAttr, intAttr, stringAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Attrs, Node, Value } from "../types.js";
import { unsupported } from "./helpers.js";
import { channelsFirst, channelsLast } from "./layout.js";
import { normaliseGroups, scaleShift } from "./norms.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** The parameters of an activation in the order in which fused nodes list them. */
const PARAMETERS: Readonly<Record<string, readonly string[]>> = {
  Relu: [],
  Tanh: [],
  Sigmoid: [],
  Softplus: [],
  Softsign: [],
  HardSwish: [],
  QuickGelu: ["alpha"],
  LeakyRelu: ["alpha"],
  Elu: ["alpha"],
  ThresholdedRelu: ["alpha"],
  HardSigmoid: ["alpha", "beta"],
  Softmax: [],
};

/** An activation by the name and parameters that a fused node carries; parameters not given take their defaults. */
function activated(x: Value, name: string, parameters: readonly number[], node: Node): Value {
  if (name === "") return x;
  if (name === "Clip") return ops.clip(x, parameters[0], parameters[1]);
  const known = PARAMETERS[name];
  if (!known) throw unsupported(node, "activation", name);
  if (name === "QuickGelu") return ops.mul(x, ops.sigmoid(ops.mul(x, parameters[0] ?? 1.702)));
  const given = known.flatMap((key, at) => {
    const value = parameters[at];
    return value === undefined ? [] : [[key, { f: value }] as const];
  });
  return op(name, [x], Object.fromEntries(given));
}

const without = (attrs: Attrs, pattern: RegExp): Attrs =>
  Object.fromEntries(Object.entries(attrs).filter(([name]) => !pattern.test(name)));

/** Parameters given as attributes of their own: activation_alpha, activation_beta, activation_gamma. */
const named = ({ attrs }: Node): number[] =>
  ["alpha", "beta", "gamma"].flatMap((name) =>
    attrs[`activation_${name}`] ? [floatAttr(attrs, `activation_${name}`, 0)] : [],
  );

const listed = ({ attrs }: Node): readonly number[] => {
  const list = attrs.activation_params;
  return list && "floats" in list ? list.floats : [];
};

/** Conv, then what is added to it, then the activation. */
const fusedConv: Decomposition = ([x, weights, bias, sum], node) => {
  const y = op("Conv", [x, weights, bias], without(node.attrs, /^activation/));
  return [activated(sum ? ops.add(y, sum) : y, stringAttr(node.attrs, "activation", ""), listed(node), node)];
};

const fusedGemm: Decomposition = (inputs, node) => {
  const y = op("Gemm", inputs, without(node.attrs, /^activation/));
  return [activated(y, stringAttr(node.attrs, "activation", ""), named(node), node)];
};

const fusedProduct: Decomposition = (inputs, node) => {
  const attrs = without(node.attrs, /^activation/);
  const y = op("FusedMatMul", inputs, attrs, { domain: "com.microsoft" });
  return [activated(y, stringAttr(node.attrs, "activation", ""), named(node), node)];
};

/** Data and result have their channels last, the filter first. */
const nhwcConv: Decomposition = ([x, weights, bias], node) => [
  channelsLast(op("Conv", [channelsFirst(x as Value), weights, bias], node.attrs)),
];

function groupNorm(x: Value, scale: Value, bias: Value, node: Node): Value {
  const last = intAttr(node.attrs, "channels_last", 1) !== 0;
  const data = last ? channelsFirst(x) : x;
  const normal = normaliseGroups(
    data,
    intAttr(node.attrs, "groups", 1),
    floatAttr(node.attrs, "epsilon", 1e-5),
  );
  const y = scaleShift(normal, ops.cast(scale, x.dtype), ops.cast(bias, x.dtype));
  const active = intAttr(node.attrs, "activation", 0) !== 0 ? ops.silu(y) : y;
  return last ? channelsLast(active) : active;
}

/** The skip may be one vector per image, `[N, C]` or with axes of length 1 for the space. */
const skipGroupNorm: Decomposition = ([x, scale, bias, skip, channelBias], node) => {
  const data = x as Value;
  const last = intAttr(node.attrs, "channels_last", 1) !== 0;
  const perImage = skip as Value;
  const spatial = Array.from({ length: data.shape.length - 2 }, (_, axis) => (last ? axis + 1 : axis + 2));
  const added = perImage.shape.length === 2 ? ops.unsqueeze(perImage, ...spatial) : perImage;
  const vector =
    channelBias && !last ? ops.unsqueeze(channelBias, ...spatial.map((axis) => axis - 1)) : channelBias;
  const sum = vector ? ops.add(ops.add(data, added), vector) : ops.add(data, added);
  return [groupNorm(sum, scale as Value, bias as Value, node), sum];
};

/**
 * softmax(data + bias) over all axes from `axis` on. The bias has the axes behind those it is repeated over, which are
 * the last ones of the batch, or the first with `is_inner_broadcast` 0.
 */
const biasSoftmax: Decomposition = ([data, bias], node) => {
  const [x, term] = [data as Value, bias as Value];
  const rank = x.shape.length;
  const raw = intAttr(node.attrs, "axis", 1);
  const axis = raw < 0 ? raw + rank : raw;
  const sum = ops.add(x, term);
  if (axis === rank - 1) return [ops.softmax(sum)];
  const flat = ops.softmax(op("Flatten", [sum], { axis: { i: axis } }));
  return [ops.reshape(flat, x.shape, [x])];
};

export const activatedProducts: DecompositionTable = {
  "com.microsoft.FusedConv": fusedConv,
  "com.microsoft.FusedGemm": fusedGemm,
  "com.microsoft.FusedMatMulActivation": fusedProduct,
  "com.microsoft.GemmFastGelu": ([x, weights, bias]) => {
    const product = ops.matmul(x as Value, weights as Value);
    return [ops.gelu(bias ? ops.add(product, bias) : product, "tanh")];
  },
  "com.microsoft.NhwcConv": nhwcConv,
  "com.microsoft.GroupNorm": ([x, scale, bias], node) => [
    groupNorm(x as Value, scale as Value, bias as Value, node),
  ],
  "com.microsoft.SkipGroupNorm": skipGroupNorm,
  "com.microsoft.BiasSoftmax": biasSoftmax,
};
