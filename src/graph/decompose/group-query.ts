import { op } from "../create.js";
import { floatAttr, intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { attend, causal, headSize, join, repeatHeads } from "./attend.js";
import { refuse, staticLengths, unsupported } from "./helpers.js";
import { mergeHeads, positionsOf, rotate, splitHeads } from "./rotary.js";
import type { Decomposition, DecompositionTable } from "./types.js";

type Inputs = readonly (Value | undefined)[];

/** Where queries and keys stand, when a cache is in front of them. */
interface Places {
  /** Filled positions of the cache, `[batch]`. */
  readonly filled: Value;
  /** Of the queries and new keys, `[batch, length]`. */
  readonly queries: Value;
  /** Of cached and new keys, `[batch, cache + length]`; those of unfilled cache positions mean nothing. */
  readonly keys: Value;
  /** False at unfilled cache positions, `[batch, cache + length]`. */
  readonly valid: Value;
}

/** A prompt (as many new tokens as there are in total) starts at 0, whatever the cache holds. */
function placesOf(past: Value, q: Value, lengths: Value, total: Value): Places {
  const [batch, , length] = q.shape as [Dim, Dim, Dim];
  const size = past.shape[2] as Dim;
  const now = ops.gather(ops.shapeOf(q), ops.scalar(2, "int64"));
  const prompt = ops.equal(ops.reshape(ops.cast(total, "int64"), []), now);
  const before = ops.sub(ops.add(ops.reshape(ops.cast(lengths, "int64"), [-1]), 1), now);
  const filled = ops.where(prompt, 0, before);
  const queries = ops.add(ops.unsqueeze(filled, 1), ops.unsqueeze(positionsOf(length, q), 0));
  const inCache = ops.expand(ops.unsqueeze(positionsOf(size, past), 0), [batch, size], [q, past]);
  const isFilled = ops.less(inCache, ops.unsqueeze(filled, 1));
  const isNew = ops.full([batch, length], 1, "bool", [q]);
  return {
    filled,
    queries,
    keys: ops.concat([inCache, queries], 1),
    valid: ops.concat([isFilled, isNew], 1),
  };
}

/** Which keys every query sees, `[batch, 1, length, cache + length]`. */
function visible({ queries, keys, valid }: Places, oneWay: boolean, window: number): Value {
  const [rows, columns] = [ops.unsqueeze(queries, 1, 3), ops.unsqueeze(keys, 1, 2)];
  let seen = ops.unsqueeze(valid, 1, 2);
  if (oneWay) seen = ops.and(seen, ops.lessOrEqual(columns, rows));
  return window > 0 ? ops.and(seen, ops.greater(columns, ops.sub(rows, window))) : seen;
}

/** Bias columns are counted in positions; here they are put where the keys stand. */
function placedBias(bias: Value, { keys }: Places): Value {
  const last = ops.sub(ops.gather(ops.shapeOf(bias), ops.scalar(3, "int64")), 1);
  const columns = ops.unsqueeze(ops.min(keys, last), 1, 2);
  const [, heads, length, total] = bias.shape as [Dim, Dim, Dim, Dim];
  const [batch, places] = keys.shape as [Dim, Dim];
  const like = [keys, bias];
  return ops.gatherElements(
    ops.expand(bias, [batch, heads, length, total], like),
    ops.expand(columns, [batch, heads, length, places], like),
    3,
  );
}

/** Cached and new keys without the unfilled positions between them, at least as long as the cache. */
function present(joined: Value, past: Value, { filled }: Places, total: Value): Value {
  const [batch, groups, , size] = joined.shape as [Dim, Dim, Dim, Dim];
  const count = (x: Value) => ops.gather(ops.shapeOf(x), ops.scalar(2, "int64"));
  const longest = ops.max(count(past), ops.reshape(ops.cast(total, "int64"), []));
  const at = ops.unsqueeze(op("Range", [ops.scalar(0, "int64"), longest, ops.scalar(1, "int64")]), 0);
  const start = ops.unsqueeze(filled, 1);
  const moved = ops.min(ops.add(ops.sub(at, start), count(past)), ops.sub(count(joined), 1));
  const from = ops.where(ops.less(at, start), at, moved);
  const wide = ops.expand(
    ops.unsqueeze(from, 1, 3),
    [batch, groups, from.shape[1] as Dim, size],
    [joined, from],
  );
  return ops.gatherElements(joined, wide, 2);
}

/** Query, key and value as `[batch, heads, length, size]`, normalised per head where the node asks for it. */
function projections(inputs: Inputs, node: Node): readonly [Value, Value, Value] {
  const [query, key, value] = inputs as [Value, Value | undefined, Value | undefined];
  const [qNorm, kNorm] = [inputs[14], inputs[15]];
  const [heads, groups] = [intAttr(node.attrs, "num_heads", 1), intAttr(node.attrs, "kv_num_heads", 1)];
  const width = staticLengths(node, [query.shape[2] as Dim], "the width")[0] as number;
  const size = key ? width / heads : width / (heads + 2 * groups);
  const parts =
    key && value ? [query, key, value] : ops.split(query, [heads * size, groups * size, groups * size], -1);
  const [q, k, v] = parts.map((part, at) => splitHeads(part, at === 0 ? heads : groups)) as [
    Value,
    Value,
    Value,
  ];
  const common = floatAttr(node.attrs, "qk_norm_epsilon", 1e-6);
  const norm = (x: Value, weight: Value | undefined, name: string) =>
    weight ? ops.rmsNorm(x, weight, floatAttr(node.attrs, name, common)) : x;
  return [norm(q, qNorm, "q_norm_epsilon"), norm(k, kNorm, "k_norm_epsilon"), v];
}

/** Turns queries and keys by their positions. */
function rotated(inputs: Inputs, node: Node, q: Value, k: Value, places: Places | undefined): [Value, Value] {
  const [cos, sin, ids] = [inputs[7], inputs[8], inputs[9]];
  if (intAttr(node.attrs, "do_rotary", 0) === 0 || !cos || !sin) return [q, k];
  const positions = ids ?? places?.queries;
  const angles = [cos, sin].map((cache) =>
    positions
      ? ops.unsqueeze(ops.gather(cache, positions), 1)
      : ops.gather(cache, positionsOf(q.shape[2] as Dim, q)),
  ) as [Value, Value];
  const interleaved = intAttr(node.attrs, "rotary_interleaved", 0) !== 0;
  const turn = (x: Value) => rotate(x, ...angles, 2 * headSize(cos), interleaved);
  return [turn(q), turn(k)];
}

/**
 * Query heads share key/value heads; keys may come from a cache that is filled to another length in every row. Rows
 * behind a sequence's length hold values that no loss should read.
 */
const groupQuery: Decomposition = (inputs, node) => {
  const [pastKey, pastValue, lengths, total, bias, sink] = [3, 4, 5, 6, 10, 11].map((at) => inputs[at]);
  refuse(node, { k_scale: inputs[12], v_scale: inputs[13], query_seqlens: inputs[16] });
  const [newQ, newK, newV] = projections(inputs, node);
  const cached = pastKey !== undefined && pastKey.shape[2] !== 0;
  const places = cached ? placesOf(pastKey, newQ, lengths as Value, total as Value) : undefined;
  const [q, turnedK] = rotated(inputs, node, newQ, newK, places);
  const [k, v] = [join(pastKey, turnedK), join(pastValue, newV)];
  const window = intAttr(node.attrs, "local_window_size", -1);
  const oneWay = intAttr(node.attrs, "causal", 1) !== 0;
  if (!oneWay && window > 0) throw unsupported(node, "local_window_size", `${window} without causal`);
  const times = intAttr(node.attrs, "num_heads", 1) / intAttr(node.attrs, "kv_num_heads", 1);
  const plain = oneWay
    ? causal(q.shape[2] as Dim, k.shape[2] as Dim, [q, k], { past: false, window })
    : undefined;
  const smooth = intAttr(node.attrs, "smooth_softmax", 0) === 1 ? ops.scalar(0, q.dtype) : undefined;
  const y = attend(q, repeatHeads(k, times), repeatHeads(v, times), {
    scale: floatAttr(node.attrs, "scale", 0) || 1 / Math.sqrt(headSize(q)),
    softcap: floatAttr(node.attrs, "softcap", 0),
    bias: [places && bias ? placedBias(bias, places) : bias],
    allowed: [places ? visible(places, oneWay, window) : plain],
    sink: sink ?? smooth,
  });
  if (!places) return [mergeHeads(y), k, v];
  const kept = (joined: Value, past: Value | undefined) =>
    present(joined, past as Value, places, total as Value);
  return [mergeHeads(y), kept(k, pastKey), kept(v, pastValue)];
};

export const groupQueries: DecompositionTable = { "com.microsoft.GroupQueryAttention": groupQuery };
