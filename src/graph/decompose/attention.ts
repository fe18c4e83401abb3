import { dimAdd, dimMul } from "../dims.js";
import { floatAttr, intAttr, intsAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { attend, causal, headSize, join, repeatHeads } from "./attend.js";
import { refuse, staticLengths, unsupported } from "./helpers.js";
import { mergeHeads, positionsOf, splitHeads } from "./rotary.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** What the kernels of com.microsoft add where a padding mask is 0. */
const FILTER = -10000;

const onnxAttention: Decomposition = (inputs, node) => {
  const [query, key, value, mask, pastKey, pastValue, lengths] = inputs as [
    Value,
    Value,
    Value,
    ...(Value | undefined)[],
  ];
  const oneSided = intAttr(node.attrs, "is_causal", 0) !== 0;
  if (oneSided && lengths) throw unsupported(node, "is_causal", "1 with nonpad_kv_seqlen");
  for (const side of ["left_window_size", "right_window_size"])
    if (intAttr(node.attrs, side, -1) >= 0) throw unsupported(node, side, intAttr(node.attrs, side, -1));
  const flat = query.shape.length === 3;
  const heads = (x: Value, name: string) => (flat ? splitHeads(x, intAttr(node.attrs, name, 1)) : x);
  const q = heads(query, "q_num_heads");
  const k = join(pastKey, heads(key, "kv_num_heads"));
  const v = join(pastValue, heads(value, "kv_num_heads"));
  const times = Number(q.shape[1]) / Number(k.shape[1]);
  const look = oneSided
    ? causal(q.shape[2] as Dim, k.shape[2] as Dim, [q, k], { past: pastKey !== undefined })
    : undefined;
  const filled = lengths && ops.unsqueeze(within(k.shape[2] as Dim, k, lengths), 1, 2);
  const y = attend(q, repeatHeads(k, times), repeatHeads(v, times), {
    scale: floatAttr(node.attrs, "scale", 1 / Math.sqrt(headSize(q))),
    softcap: floatAttr(node.attrs, "softcap", 0),
    bias: [mask?.dtype === "bool" ? undefined : mask],
    allowed: [look, mask?.dtype === "bool" ? mask : undefined, filled],
  });
  return [flat ? mergeHeads(y) : y, k, v];
};

/** `[batch, total]`: positions before each row's length. */
const within = (total: Dim, like: Value, lengths: Value): Value =>
  ops.less(ops.unsqueeze(positionsOf(total, like), 0), ops.unsqueeze(ops.cast(lengths, "int64"), 1));

/**
 * A padding mask as a term of the scores. Forms: `[batch, total]` or `[batch, length, total]` of 0 and 1; lengths
 * `[batch]`; ends, then starts `[2·batch]`; key lengths, then running sums `[3·batch + 2]`; a square
 * `[batch, 1, most, most]` of which the rows behind the cache are used.
 */
function padding(mask: Value | undefined, q: Value, k: Value, node: Node): Value | undefined {
  if (!mask) return undefined;
  const kept = keptKeys(mask, q, k, node);
  return ops.mul(ops.cast(ops.not(kept), k.dtype), floatAttr(node.attrs, "mask_filter_value", FILTER));
}

function keptKeys(mask: Value, q: Value, k: Value, node: Node): Value {
  const [batch, total] = [k.shape[0] as Dim, k.shape[2] as Dim];
  if (mask.shape.length === 2) return ops.unsqueeze(ops.greater(mask, 0), 1, 2);
  if (mask.shape.length === 3) return ops.unsqueeze(ops.greater(mask, 0), 1);
  if (mask.shape.length === 4) {
    const [length, columns] = staticLengths(node, [q.shape[2] as Dim, total], "lengths") as [number, number];
    const rows = ops.slice(mask, 2, columns - length, columns);
    return ops.greater(ops.slice(rows, 3, 0, columns), 0);
  }
  const [count] = mask.shape;
  if (count === dimMul(batch, 2) && count !== batch) {
    const [size] = staticLengths(node, [batch], "the batch") as [number];
    const [ends, starts] = ops.split(mask, [size, size], 0) as [Value, Value];
    const inside = ops.and(within(total, k, ends), ops.not(within(total, k, starts)));
    return ops.unsqueeze(inside, 1, 2);
  }
  const packed = count !== batch && count === dimAdd(dimMul(batch, 3), 2);
  const lengths = packed ? ops.slice(mask, 0, 0, Number(batch)) : mask;
  return ops.unsqueeze(within(total, k, lengths), 1, 2);
}

const scaleOf = (node: Node, q: Value) => floatAttr(node.attrs, "scale", 0) || 1 / Math.sqrt(headSize(q));
const oneWay = (node: Node, q: Value, k: Value, past: boolean) =>
  intAttr(node.attrs, "unidirectional", 0) !== 0
    ? causal(q.shape[2] as Dim, k.shape[2] as Dim, [q, k], { past })
    : undefined;

/** Query, key and value as `[batch, heads, length, size]`, biases added, from any of the layouts. */
function projections(inputs: readonly (Value | undefined)[], node: Node): readonly [Value, Value, Value] {
  const [query, key, value, bias] = inputs as [Value, ...(Value | undefined)[]];
  const heads = intAttr(node.attrs, "num_heads", 1);
  const parts = [query, key, value].flatMap((x) => (x ? unpack(x) : []));
  if (parts.length !== 3) throw unsupported(node, "layout", `${parts.length} of query, key and value`);
  const width = (x: Value): Dim =>
    x.shape.length === 4 ? dimMul(heads, x.shape[3] as Dim) : (x.shape[2] as Dim);
  const biases = bias ? ops.split(bias, staticLengths(node, parts.map(width), "widths"), 0) : [];
  const cached = query.shape.length === 3 && key?.shape.length === 4;
  return parts.map((x, at) => {
    if (at > 0 && cached) return x;
    const flat = x.shape.length === 4 ? ops.reshape(x, [...x.shape.slice(0, 2), width(x)], [x]) : x;
    return splitHeads(biases[at] ? ops.add(flat, biases[at]) : flat, heads);
  }) as unknown as [Value, Value, Value];
}

/** `[batch, length, heads, n, size]` as n values of `[batch, length, heads, size]`. */
const unpack = (x: Value): readonly Value[] =>
  x.shape.length === 5
    ? ops.split(x, Array<number>(Number(x.shape[3])).fill(1), 3).map((part) => ops.squeeze(part, 3))
    : [x];

const multiHead: Decomposition = (inputs, node) => {
  const [, , , , mask, attentionBias, pastKey, pastValue, pastLength, beams] = inputs;
  refuse(node, { past_sequence_length: pastLength, cache_indirection: beams });
  const [q, newK, newV] = projections(inputs, node);
  const [k, v] = [join(pastKey, newK), join(pastValue, newV)];
  const y = attend(q, k, v, {
    scale: scaleOf(node, q),
    bias: [attentionBias, padding(mask, q, k, node)],
    allowed: [oneWay(node, q, k, pastKey !== undefined)],
  });
  return [mergeHeads(y), k, v];
};

/** com.microsoft.Attention: the projections are part of the node; past and present are `[2, batch, heads, length, size]`. */
const packedAttention: Decomposition = (inputs, node) => {
  const [x, weights, bias, mask, past, attentionBias, pastLength] = inputs as [
    Value,
    Value,
    ...(Value | undefined)[],
  ];
  refuse(node, { past_sequence_length: pastLength });
  if (intAttr(node.attrs, "do_rotary", 0) !== 0) throw unsupported(node, "do_rotary", 1);
  const heads = intAttr(node.attrs, "num_heads", 1);
  const width = staticLengths(node, [weights.shape[1] as Dim], "the width")[0] as number;
  const projected = ops.matmul(x, weights);
  const sizes = intsAttr(node.attrs, "qkv_hidden_sizes") ?? [width / 3, width / 3, width / 3];
  const [q, newK, newV] = ops
    .split(bias ? ops.add(projected, bias) : projected, sizes, -1)
    .map((part) => splitHeads(part, heads)) as [Value, Value, Value];
  const half = (at: number) => past && ops.squeeze(ops.slice(past, 0, at, at + 1), 0);
  const [k, v] = [join(half(0), newK), join(half(1), newV)];
  const y = attend(q, k, v, {
    scale: scaleOf(node, q),
    bias: [attentionBias, padding(mask, q, k, node)],
    allowed: [oneWay(node, q, k, past !== undefined)],
  });
  if (node.outputs.length < 2) return [mergeHeads(y)];
  return [mergeHeads(y), ops.concat([ops.unsqueeze(k, 0), ops.unsqueeze(v, 0)], 0)];
};

/** Sum of word, position and segment embeddings, normalised; then the number of tokens per row, and the sum. */
const embedNorm: Decomposition = (inputs, node) => {
  const [ids, segments, words, positions, segmentTable, gamma, beta, mask, positionIds] = inputs as [
    Value,
    ...(Value | undefined)[],
  ];
  const places = positionIds ?? positionsOf(ids.shape[1] as Dim, ids);
  const parts = [ops.gather(words as Value, ids), ops.gather(positions as Value, places)];
  if (segments && segmentTable) parts.push(ops.gather(segmentTable, segments));
  const sum = parts.reduce((a, b) => ops.add(a, b));
  const tokens = mask
    ? ops.reduceSum(ops.cast(ops.equal(mask, 1), "int32"), [1], false)
    : ops.full([ids.shape[0] as Dim], 0, "int32", [ids]);
  return [ops.layerNorm(sum, gamma as Value, beta, floatAttr(node.attrs, "epsilon", 1e-12)), tokens, sum];
};

export const attentions: DecompositionTable = {
  Attention: onnxAttention,
  "com.microsoft.Attention": packedAttention,
  "com.microsoft.MultiHeadAttention": multiHead,
  "com.microsoft.EmbedLayerNormalization": embedNorm,
};
