import { floatAttr, intAttr, intsAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { staticLengths, unsupported } from "./helpers.js";
import { mergeHeads, positionsOf, rotate, splitHeads } from "./rotary.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** Stands for -inf: finite, so that a fully masked row gives no NaN in the gradient. */
const MASKED = -1e30;
/** What the kernels of com.microsoft add where a padding mask is 0. */
const FILTER = -10000;

interface Scores {
  readonly scale: number;
  readonly softcap?: number;
  /** Added to the scores, broadcastable to `[batch, heads, length, total]`. */
  readonly bias?: readonly (Value | undefined)[];
  /** True where a query may look, broadcastable likewise. */
  readonly allowed?: readonly (Value | undefined)[];
}

/** softmax(q·kᵀ·scale + bias)·v over `[batch, heads, length, size]`. */
function attend(
  q: Value,
  k: Value,
  v: Value,
  { scale, softcap = 0, bias = [], allowed = [] }: Scores,
): Value {
  let scores = ops.mul(ops.matmul(q, ops.transposeLast(k)), scale);
  if (softcap > 0) scores = ops.mul(ops.tanh(ops.div(scores, softcap)), softcap);
  for (const term of bias) if (term) scores = ops.add(scores, term);
  for (const mask of allowed) if (mask) scores = ops.where(mask, scores, MASKED);
  return ops.matmul(ops.softmax(scores), v);
}

/** `[length, total]`: key j is not behind query i (and, with a window, at most that far back). */
function causal(
  length: Dim,
  total: Dim,
  like: readonly [Value, Value],
  options: { past: boolean; window?: number },
): Value {
  const columns = ops.unsqueeze(positionsOf(total, like[1]), 0);
  let rows = ops.unsqueeze(positionsOf(length, like[0]), 1);
  if (options.past) {
    // The queries are the last ones: the offset is total - length.
    const count = (value: Value) => ops.gather(ops.shapeOf(value), ops.scalar(2, "int64"));
    rows = ops.add(rows, ops.sub(count(like[1]), count(like[0])));
  }
  const past = ops.lessOrEqual(columns, rows);
  const { window = 0 } = options;
  return window > 0 ? ops.and(past, ops.greater(columns, ops.sub(rows, window))) : past;
}

/** Every key/value head serves `times` neighbouring query heads. */
function repeatHeads(x: Value, times: number): Value {
  if (times === 1) return x;
  const [batch, heads, length, size] = x.shape as [Dim, number, Dim, Dim];
  const wide = ops.expand(ops.unsqueeze(x, 2), [batch, heads, times, length, size], [x]);
  return ops.reshape(wide, [batch, heads * times, length, size], [x]);
}

const headSize = (x: Value): number => Number(x.shape.at(-1));
const join = (past: Value | undefined, now: Value): Value => (past ? ops.concat([past, now], 2) : now);

const onnxAttention: Decomposition = (inputs, node) => {
  const [query, key, value, mask, pastKey, pastValue] = inputs as [
    Value,
    Value,
    Value,
    ...(Value | undefined)[],
  ];
  const flat = query.shape.length === 3;
  const heads = (x: Value, name: string) => (flat ? splitHeads(x, intAttr(node.attrs, name, 1)) : x);
  const q = heads(query, "q_num_heads");
  const k = join(pastKey, heads(key, "kv_num_heads"));
  const v = join(pastValue, heads(value, "kv_num_heads"));
  const times = Number(q.shape[1]) / Number(k.shape[1]);
  const look =
    intAttr(node.attrs, "is_causal", 0) !== 0
      ? causal(q.shape[2] as Dim, k.shape[2] as Dim, [q, k], { past: pastKey !== undefined })
      : undefined;
  const y = attend(q, repeatHeads(k, times), repeatHeads(v, times), {
    scale: floatAttr(node.attrs, "scale", 1 / Math.sqrt(headSize(q))),
    softcap: floatAttr(node.attrs, "softcap", 0),
    bias: [mask?.dtype === "bool" ? undefined : mask],
    allowed: [look, mask?.dtype === "bool" ? mask : undefined],
  });
  return [flat ? mergeHeads(y) : y, k, v];
};

/** A padding mask `[batch, total]` of 0 and 1, or lengths `[batch]`, as a term of the scores. */
function padding(mask: Value | undefined, total: Dim, like: Value, node: Node): Value | undefined {
  if (!mask) return undefined;
  const rank = mask.shape.length;
  if (rank > 2)
    throw unsupported(node, "mask of rank", rank, "give it as [batch, total] or as an additive bias");
  const kept =
    rank === 2
      ? ops.greater(mask, 0)
      : ops.less(ops.unsqueeze(positionsOf(total, like), 0), ops.unsqueeze(ops.cast(mask, "int64"), 1));
  const term = ops.mul(
    ops.cast(ops.not(kept), like.dtype),
    floatAttr(node.attrs, "mask_filter_value", FILTER),
  );
  return ops.unsqueeze(term, 1, 2);
}

const scaleOf = (node: Node, q: Value) => floatAttr(node.attrs, "scale", 0) || 1 / Math.sqrt(headSize(q));
const oneWay = (node: Node, q: Value, k: Value, past: boolean) =>
  intAttr(node.attrs, "unidirectional", 0) !== 0
    ? causal(q.shape[2] as Dim, k.shape[2] as Dim, [q, k], { past })
    : undefined;

const multiHead: Decomposition = (inputs, node) => {
  const [query, key, value, bias, mask, attentionBias, pastKey, pastValue] = inputs as [
    Value,
    ...(Value | undefined)[],
  ];
  if (query.shape.length !== 3 || !key || !value)
    throw unsupported(node, "layout", "packed projections", "split query, key and value");
  const heads = intAttr(node.attrs, "num_heads", 1);
  const widths = staticLengths(
    node,
    [query, key, value].map((x) =>
      x.shape.length === 4 ? Number(x.shape[1]) * headSize(x) : (x.shape[2] as Dim),
    ),
    "widths",
  );
  const [bq, bk, bv] = bias ? ops.split(bias, widths, 0) : [];
  const project = (x: Value, b: Value | undefined) =>
    x.shape.length === 4 ? x : splitHeads(b ? ops.add(x, b) : x, heads);
  const q = project(query, bq);
  const k = join(pastKey, project(key, bk));
  const v = join(pastValue, project(value, bv));
  const y = attend(q, k, v, {
    scale: scaleOf(node, q),
    bias: [attentionBias, padding(mask, k.shape[2] as Dim, k, node)],
    allowed: [oneWay(node, q, k, pastKey !== undefined)],
  });
  return [mergeHeads(y), k, v];
};

/** com.microsoft.Attention: the projections are part of the node; past and present are `[2, batch, heads, length, size]`. */
const packedAttention: Decomposition = (inputs, node) => {
  const [x, weights, bias, mask, past, attentionBias] = inputs as [Value, Value, ...(Value | undefined)[]];
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
    bias: [attentionBias, padding(mask, k.shape[2] as Dim, k, node)],
    allowed: [oneWay(node, q, k, past !== undefined)],
  });
  if (node.outputs.length < 2) return [mergeHeads(y)];
  return [mergeHeads(y), ops.concat([ops.unsqueeze(k, 0), ops.unsqueeze(v, 0)], 0)];
};

/** Without a cache: positions from 0, causal. Rows behind a sequence's length hold values that no loss should read. */
const groupQuery: Decomposition = (inputs, node) => {
  const [query, key, value, past, , , , cos, sin, ids, attentionBias, sink] = inputs as [
    Value,
    ...(Value | undefined)[],
  ];
  if (past && past.shape[2] !== 0)
    throw unsupported(node, "past_key", "given", "drop the cache inputs before training");
  if (sink) throw unsupported(node, "head_sink", "given");
  const [heads, groups] = [intAttr(node.attrs, "num_heads", 1), intAttr(node.attrs, "kv_num_heads", 1)];
  const width = staticLengths(node, [query.shape[2] as Dim], "the width")[0] as number;
  const size = key ? width / heads : width / (heads + 2 * groups);
  const parts =
    key && value ? [query, key, value] : ops.split(query, [heads * size, groups * size, groups * size], -1);
  let [q, k, v] = parts.map((part, at) => splitHeads(part, at === 0 ? heads : groups)) as [
    Value,
    Value,
    Value,
  ];
  if (intAttr(node.attrs, "do_rotary", 0) !== 0 && cos && sin) {
    const positions = ids ?? positionsOf(q.shape[2] as Dim, q);
    const angles = [cos, sin].map((cache) => {
      const rows = ops.gather(cache, positions);
      return ids ? ops.unsqueeze(rows, 1) : rows;
    }) as [Value, Value];
    const interleaved = intAttr(node.attrs, "rotary_interleaved", 0) !== 0;
    const turn = (x: Value) => rotate(x, ...angles, 2 * headSize(cos), interleaved);
    [q, k] = [turn(q), turn(k)];
  }
  const window = intAttr(node.attrs, "local_window_size", -1);
  const y = attend(q, repeatHeads(k, heads / groups), repeatHeads(v, heads / groups), {
    scale: scaleOf(node, q),
    softcap: floatAttr(node.attrs, "softcap", 0),
    bias: [attentionBias],
    allowed: [causal(q.shape[2] as Dim, k.shape[2] as Dim, [q, k], { past: false, window })],
  });
  return [mergeHeads(y), k, v];
};

/** Sum of word, position and segment embeddings, normalised; the third output is the sum. */
const embedNorm: Decomposition = (inputs, node) => {
  const [ids, segments, words, positions, segmentTable, gamma, beta, , positionIds] = inputs as [
    Value,
    ...(Value | undefined)[],
  ];
  const places = positionIds ?? positionsOf(ids.shape[1] as Dim, ids);
  const parts = [ops.gather(words as Value, ids), ops.gather(positions as Value, places)];
  if (segments && segmentTable) parts.push(ops.gather(segmentTable, segments));
  const sum = parts.reduce((a, b) => ops.add(a, b));
  return [ops.layerNorm(sum, gamma as Value, beta, floatAttr(node.attrs, "epsilon", 1e-12)), undefined, sum];
};

export const attentions: DecompositionTable = {
  Attention: onnxAttention,
  "com.microsoft.Attention": packedAttention,
  "com.microsoft.MultiHeadAttention": multiHead,
  "com.microsoft.GroupQueryAttention": groupQuery,
  "com.microsoft.EmbedLayerNormalization": embedNorm,
};
