import { floatAttr, intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { staticLengths, unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/**
 * Rotates `[batch, heads, length, size]` by angles given as cos and sin, broadcastable to
 * `[batch, 1, length, dim/2]`. The first `dim` elements of a head turn in pairs: halves, or neighbours when interleaved.
 */
export function rotate(x: Value, cos: Value, sin: Value, dim: number, interleaved: boolean): Value {
  const size = x.shape.at(-1) as number;
  const turning = dim < size ? ops.slice(x, -1, 0, dim) : x;
  const pairs = (value: Value, at: 0 | 1) =>
    interleaved
      ? ops.slice(value, -1, at, dim, 2)
      : ops.slice(value, -1, (at * dim) / 2, ((at + 1) * dim) / 2);
  const [a, b] = [pairs(turning, 0), pairs(turning, 1)];
  const first = ops.sub(ops.mul(a, cos), ops.mul(b, sin));
  const second = ops.add(ops.mul(a, sin), ops.mul(b, cos));
  const turned = interleaved
    ? ops.reshape(ops.concat([ops.unsqueeze(first, -1), ops.unsqueeze(second, -1)], -1), turning.shape, [x])
    : ops.concat([first, second], -1);
  return dim < size ? ops.concat([turned, ops.slice(x, -1, dim)], -1) : turned;
}

/** `[batch, length, heads·size]` as `[batch, heads, length, size]`. */
export function splitHeads(x: Value, heads: number): Value {
  const [batch, length, width] = x.shape as [Dim, Dim, number];
  return ops.transpose(ops.reshape(x, [batch, length, heads, width / heads]), [0, 2, 1, 3]);
}

/** The inverse of `splitHeads`. */
export function mergeHeads(x: Value): Value {
  const [batch, heads, length, size] = x.shape as [Dim, number, Dim, number];
  return ops.reshape(ops.transpose(x, [0, 2, 1, 3]), [batch, length, heads * size], [x]);
}

/** A rotary node over 4-D data, or 3-D data whose heads are split first. */
function rotaryNode(x: Value, cos: Value, sin: Value, node: Node): Value {
  const flat = x.shape.length === 3;
  const width = staticLengths(node, [x.shape.at(-1) as Dim], "the width")[0] as number;
  const half = staticLengths(node, [cos.shape.at(-1) as Dim], "the rotary cache")[0] as number;
  const dim = intAttr(node.attrs, "rotary_embedding_dim", 0);
  const heads = intAttr(node.attrs, "num_heads", 0) || width / (dim || 2 * half);
  const turned = rotate(
    flat ? splitHeads(x, heads) : x,
    cos,
    sin,
    dim || 2 * half,
    intAttr(node.attrs, "interleaved", 0) !== 0,
  );
  return flat ? mergeHeads(turned) : turned;
}

/** Rows of a `[positions, dim/2]` cache for position ids `[batch, length]`, with an axis for the heads. */
const rowsOf = (cache: Value, ids: Value): Value => ops.unsqueeze(ops.gather(cache, ids), 1);

const contribRotary: Decomposition = (inputs, node) => {
  const [x, ids, cos, sin] = inputs as [Value, Value, Value, Value];
  if (floatAttr(node.attrs, "scale", 1) !== 1)
    throw unsupported(node, "scale", floatAttr(node.attrs, "scale", 1));
  if (ids.shape.length === 2) return [rotaryNode(x, rowsOf(cos, ids), rowsOf(sin, ids), node)];
  const length = x.shape.at(-2) as Dim;
  const positions = ops.add(positionsOf(length, x), ids);
  return [rotaryNode(x, ops.gather(cos, positions), ops.gather(sin, positions), node)];
};

const onnxRotary: Decomposition = (inputs, node) => {
  const [x, cos, sin, ids] = inputs as [Value, Value, Value, Value | undefined];
  if (ids) return [rotaryNode(x, rowsOf(cos, ids), rowsOf(sin, ids), node)];
  return [rotaryNode(x, ops.unsqueeze(cos, 1), ops.unsqueeze(sin, 1), node)];
};

/** 0, 1, ..., length - 1 as int64, also for a length known only when the graph runs. */
export function positionsOf(length: Dim, like: Value): Value {
  if (typeof length === "number") return ops.arange(length);
  const ones = ops.full([length], 1, "int64", [like]);
  return ops.sub(ops.cumSum(ones, 0), 1);
}

export const rotaries: DecompositionTable = {
  RotaryEmbedding: onnxRotary,
  "com.microsoft.RotaryEmbedding": contribRotary,
};
