import * as ops from "../ops/index.js";
import type { Dim, Value } from "../types.js";
import { positionsOf } from "./rotary.js";

/** Stands for -inf: finite, so that a fully masked row gives no NaN in the gradient. */
export const MASKED = -1e30;

interface Scores {
  readonly scale: number;
  readonly softcap?: number;
  /** Added to the scores, broadcastable to `[batch, heads, length, total]`. */
  readonly bias?: readonly (Value | undefined)[];
  /** True where a query may look, broadcastable likewise. */
  readonly allowed?: readonly (Value | undefined)[];
  /** One more logit per head, `[heads]` or a scalar, that takes probability and gives nothing. */
  readonly sink?: Value | undefined;
}

/** softmax(q·kᵀ·scale + bias)·v over `[batch, heads, length, size]`. */
export function attend(
  q: Value,
  k: Value,
  v: Value,
  { scale, softcap = 0, bias = [], allowed = [], sink }: Scores,
): Value {
  let scores = ops.mul(ops.matmul(q, ops.transposeLast(k)), scale);
  if (softcap > 0) scores = ops.mul(ops.tanh(ops.div(scores, softcap)), softcap);
  for (const term of bias) if (term) scores = ops.add(scores, term);
  for (const mask of allowed) if (mask) scores = ops.where(mask, scores, MASKED);
  return ops.matmul(sink ? softmaxWithSink(scores, sink) : ops.softmax(scores), v);
}

function softmaxWithSink(scores: Value, sink: Value): Value {
  const column = sink.shape.length === 0 ? sink : ops.unsqueeze(sink, 0, 2, 3);
  const [batch, heads, length, total] = scores.shape as [Dim, Dim, Dim, Dim];
  const extra = ops.expand(ops.cast(column, scores.dtype), [batch, heads, length, 1], [scores]);
  const shares = ops.softmax(ops.concat([extra, scores], -1));
  return ops.reshape(ops.slice(shares, -1, 1), [batch, heads, length, total], [scores]);
}

/** `[length, total]`: key j is not behind query i (and, with a window, at most that far back). */
export function causal(
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
export function repeatHeads(x: Value, times: number): Value {
  if (times === 1) return x;
  const [batch, heads, length, size] = x.shape as [Dim, number, Dim, Dim];
  const wide = ops.expand(ops.unsqueeze(x, 2), [batch, heads, times, length, size], [x]);
  return ops.reshape(wide, [batch, heads * times, length, size], [x]);
}

/** Length of the last axis of `[..., size]`. */
export const headSize = (x: Value): number => Number(x.shape.at(-1));

/** A cache followed by what is new, along the axis of positions. */
export const join = (past: Value | undefined, now: Value): Value =>
  past && past.shape[2] !== 0 ? ops.concat([past, now], 2) : now;
