import { dimAdd, dimDiv, dimMul, dimSub } from "../dims.js";
import { intsOf } from "../ints.js";
import type { Dim, Shape, Value } from "../types.js";
import { type InferContext, type InferRule, intAttr, intsAttr, like, mismatch, need } from "./types.js";

const same: InferRule = (context) => [like(need(context, 0))];
const some = (context: InferContext, specs: ReturnType<InferRule>) => specs.slice(0, context.outputs ?? 1);
const dimOf = (value: Value, axis: number) => value.shape.at(axis) as Dim;

function heads(context: InferContext, name = "num_heads"): number {
  const count = intAttr(context.attrs, name, 0);
  if (count > 0) return count;
  throw mismatch(context, `the attribute ${name} is missing`);
}

/** [B, S, H] with packed weights [H, q + k + v]; past and present are [2, B, heads, T, head size]. */
const attention: InferRule = (context) => {
  const [x, weights] = [need(context, 0), need(context, 1)];
  const [batch, length] = [dimOf(x, 0), dimOf(x, 1)];
  const sizes = intsAttr(context.attrs, "qkv_hidden_sizes");
  const width = sizes?.[2] ?? dimDiv(dimOf(weights, 1), 3);
  const past = context.inputs[4];
  const total = past ? dimAdd(dimOf(past, 3), length) : length;
  const count = heads(context);
  const present = { dtype: x.dtype, shape: [2, batch, count, total, dimDiv(width, count)] };
  return some(context, [like(x, [batch, length, width]), present]);
};

/** Query [B, S, D] or packed [B, S, N, 3, H]; key and value [B, T, D], [B, N, T, H] or packed [B, T, N, 2, H]. */
const multiHead: InferRule = (context) => {
  const query = need(context, 0);
  const [key, value, past] = [context.inputs[1], context.inputs[2], context.inputs[6]];
  const count = heads(context);
  const [batch, length] = [dimOf(query, 0), dimOf(query, 1)];
  const head = query.shape.length === 5 ? dimOf(query, 4) : dimDiv(dimOf(query, 2), count);
  const valueHead = !value
    ? head
    : value.shape.length === 4
      ? dimOf(value, 3)
      : dimDiv(dimOf(value, 2), count);
  const own = !key ? length : key.shape.length === 4 ? dimOf(key, 2) : dimOf(key, 1);
  const total = past ? dimAdd(dimOf(past, 2), own) : own;
  const cache = (size: Dim): Shape => [batch, count, total, size];
  return some(context, [
    like(query, [batch, length, dimMul(valueHead, count)]),
    like(query, cache(head)),
    like(query, cache(valueHead)),
    like(query, [batch, count, length, total]),
  ]);
};

/** Key and value have fewer heads; the caches are as long as the buffers or the total length, whichever is more. */
const groupQuery: InferRule = (context) => {
  const query = need(context, 0);
  const [queries, groups] = [heads(context), heads(context, "kv_num_heads")];
  const packed = !context.inputs[1];
  const head = dimDiv(dimOf(query, 2), packed ? queries + 2 * groups : queries);
  const known = context.inputs[6] && intsOf(context.inputs[6])?.[0];
  const pastLength = context.inputs[3] && dimOf(context.inputs[3], 2);
  const longer =
    typeof known === "number" && typeof pastLength === "number" ? Math.max(known, pastLength) : undefined;
  const total = longer ?? (pastLength === undefined ? known : undefined) ?? `cache_${query.id}`;
  const cache = like(query, [dimOf(query, 0), groups, total, head]);
  return some(context, [
    like(query, [dimOf(query, 0), dimOf(query, 1), dimMul(head, queries)]),
    cache,
    cache,
  ]);
};

/** ONNX Attention (opset 23): [B, heads, S, H], or [B, S, D] with head counts as attributes. */
const onnxAttention: InferRule = (context) => {
  const [query, key, value] = [need(context, 0), need(context, 1), need(context, 2)];
  const flat = query.shape.length === 3;
  const count = (x: Value, name: string) => (flat ? heads(context, name) : dimOf(x, 1));
  const [queries, groups] = [count(query, "q_num_heads"), count(key, "kv_num_heads")];
  const size = (x: Value) => (flat ? dimDiv(dimOf(x, 2), groups) : dimOf(x, 3));
  const axis = flat ? 1 : 2;
  const [batch, length] = [dimOf(query, 0), dimOf(query, axis)];
  const past = context.inputs[4];
  const total = past ? dimAdd(dimOf(past, 2), dimOf(key, axis)) : dimOf(key, axis);
  const y = flat ? [batch, length, dimMul(size(value), queries)] : [batch, queries, length, size(value)];
  return some(context, [
    like(query, y),
    like(key, [batch, groups, total, size(key)]),
    like(value, [batch, groups, total, size(value)]),
    like(query, [batch, queries, length, total]),
  ]);
};

/** Word, position and segment embeddings, summed and normalised: [B, S] ids to [B, S, H]. */
const embedNorm: InferRule = (context) => {
  const [ids, words] = [need(context, 0), need(context, 2)];
  const y = like(words, [...ids.shape, dimOf(words, 1)]);
  return some(context, [y, { dtype: "int32", shape: [dimOf(ids, 0)] }, y]);
};

/** Half of the last axis gates the other half. */
const splitGelu: InferRule = (context) => {
  const x = need(context, 0);
  return [like(x, [...x.shape.slice(0, -1), dimDiv(dimOf(x, -1), 2)])];
};

const simplifiedNorm: InferRule = (context) => {
  const x = need(context, 0);
  return some(context, [like(x), { dtype: "float32", shape: [...x.shape.slice(0, -1), 1] }]);
};

const roiAlign: InferRule = (context) => {
  const [x, rois] = [need(context, 0), need(context, 1)];
  const [height, width] = [
    intAttr(context.attrs, "output_height", 1),
    intAttr(context.attrs, "output_width", 1),
  ];
  return [like(x, [dimOf(rois, 0), dimOf(x, 1), height, width])];
};

const compress: InferRule = (context) => {
  const [x, condition] = [need(context, 0), need(context, 1)];
  const known = intsOf(condition);
  const count: Dim = known?.every((dim) => typeof dim === "number")
    ? known.filter((dim) => dim !== 0).length
    : `nonzero_${condition.id}`;
  if (!context.attrs.axis) return [like(x, [count])];
  const raw = intAttr(context.attrs, "axis", 0);
  const axis = raw < 0 ? raw + x.shape.length : raw;
  return [
    like(
      x,
      x.shape.map((dim, at) => (at === axis ? count : dim)),
    ),
  ];
};

const unique: InferRule = (context) => {
  const x = need(context, 0);
  const count: Dim = `unique_${x.id}`;
  const raw = intAttr(context.attrs, "axis", 0);
  const axis = raw < 0 ? raw + x.shape.length : raw;
  const shape = context.attrs.axis ? x.shape.map((dim, at) => (at === axis ? count : dim)) : [count];
  const flat = context.attrs.axis ? dimOf(x, axis) : x.shape.reduce<Dim>((a, b) => dimMul(a, b), 1);
  const index = (shape: Shape) => ({ dtype: "int64" as const, shape });
  return some(context, [like(x, shape), index([count]), index([flat]), index([count])]);
};

/** [..., fft frames, bins, 2]; one-sided keeps the non-negative frequencies. */
const dft: InferRule = (context) => {
  const x = need(context, 0);
  const [lengthInput, axisInput] = [context.inputs[1], context.inputs[2]];
  const raw = Number((axisInput && intsOf(axisInput)?.[0]) ?? -2);
  const axis = raw < 0 ? raw + x.shape.length : raw;
  const length = (lengthInput && intsOf(lengthInput)?.[0]) ?? dimOf(x, axis);
  const bins = intAttr(context.attrs, "onesided", 0) ? dimAdd(dimDiv(length, 2), 1) : length;
  return [like(x, [...x.shape.slice(0, -1).map((dim, at) => (at === axis ? bins : dim)), 2])];
};

/** Signal [B, L] or [B, L, 1] to [B, frames, bins, 2]. */
const stft: InferRule = (context) => {
  const [x, step] = [need(context, 0), need(context, 1)];
  const window = context.inputs[2];
  const given = context.inputs[3] && intsOf(context.inputs[3])?.[0];
  const length: Dim = given ?? (window ? dimOf(window, 0) : `frame_${step.id}`);
  const hop: Dim = intsOf(step)?.[0] ?? `step_${step.id}`;
  const frames = dimAdd(dimDiv(dimSub(dimOf(x, 1), length), hop), 1);
  const bins = intAttr(context.attrs, "onesided", 1) ? dimAdd(dimDiv(length, 2), 1) : length;
  return [like(x, [dimOf(x, 0), frames, bins, 2])];
};

/** Boxes that survive: [kept, (batch, class, box)]. */
const nonMaxSuppression: InferRule = (context) => [
  { dtype: "int64", shape: [`boxes_${need(context, 0).id}`, 3] },
];

const each = (names: string, rule: InferRule): Record<string, InferRule> =>
  Object.fromEntries(names.split(" ").map((name) => [name, rule]));

export const contrib: Record<string, InferRule> = {
  Attention: onnxAttention,
  RotaryEmbedding: same,
  SimplifiedLayerNormalization: simplifiedNorm,
  ...each("LRN Shrink Bernoulli BitShift TensorScatter EyeLike RandomNormalLike RandomUniformLike", same),
  RoiAlign: roiAlign,
  Compress: compress,
  Unique: unique,
  DFT: dft,
  STFT: stft,
  NonMaxSuppression: nonMaxSuppression,
  "com.microsoft.Attention": attention,
  "com.microsoft.MultiHeadAttention": multiHead,
  "com.microsoft.GroupQueryAttention": groupQuery,
  "com.microsoft.RotaryEmbedding": same,
  "com.microsoft.EmbedLayerNormalization": embedNorm,
  "com.microsoft.BiasSplitGelu": splitGelu,
  "com.microsoft.GroupNorm": same,
  "com.microsoft.SkipGroupNorm": (context) => some(context, [like(need(context, 0)), like(need(context, 0))]),
  "com.microsoft.BiasSoftmax": same,
  "com.microsoft.BiasAdd": same,
};
