import { type Dim, dimMul, ops, type Value } from "../../../graph/index.js";
import type { KeyValue, LmInputs } from "../../types.js";

/** Added to scores that must not be seen; its exponential is exactly 0, and no row of real tokens is all masked. */
const MASKED = -1e9;

/** `[tokens, heads*dim]` → `[batch, heads, length, dim]`. */
export function splitHeads(
  x: Value,
  heads: number,
  dim: number,
  axes: { batch: Dim; length: Dim },
  like: Value,
): Value {
  const shaped = ops.reshape(x, [axes.batch, axes.length, heads, dim], [like]);
  return ops.transpose(shaped, [0, 2, 1, 3]);
}

/** `[batch, heads, length, dim]` → `[tokens, heads*dim]`. */
export function mergeHeads(x: Value, like: Value): Value {
  const [batch, heads, length, dim] = x.shape as [Dim, Dim, Dim, Dim];
  return ops.reshape(ops.transpose(x, [0, 2, 1, 3]), [dimMul(batch, length), dimMul(heads, dim)], [like]);
}

/** Where tokens stand and which of them may see one another; see `LmInputs`. Without segments all of a row may. */
export type TokenPlaces = Pick<LmInputs, "positions"> & {
  readonly segments?: Value | undefined;
  readonly past?: Pick<NonNullable<LmInputs["past"]>, "positions" | "segments"> | undefined;
};

/**
 * Additive masks `[batch, 1, length, past+length]`, one per window size, built once per forward pass: a query sees the
 * keys of its own segment at the same or an earlier position, at most `window - 1` back.
 */
export function maskBuilder({ positions, segments, past }: TokenPlaces): (window?: number) => Value {
  const keyPositions = past ? ops.concat([past.positions, positions], 1) : positions;
  const rows = (x: Value) => ops.unsqueeze(x, 2);
  const columns = (x: Value) => ops.unsqueeze(x, 1);
  const masks = new Map<number | undefined, Value>();
  return (window) => {
    const known = masks.get(window);
    if (known) return known;
    let seen = ops.lessOrEqual(columns(keyPositions), rows(positions));
    if (segments) {
      const keySegments = past ? ops.concat([past.segments, segments], 1) : segments;
      seen = ops.and(seen, ops.equal(columns(keySegments), rows(segments)));
    }
    if (window !== undefined) {
      seen = ops.and(seen, ops.less(ops.sub(rows(positions), columns(keyPositions)), window));
    }
    const mask = additive(ops.unsqueeze(seen, 1));
    masks.set(window, mask);
    return mask;
  };
}

/** `[batch, 1, 1, length]` of an attention mask `[batch, length]`: nobody sees what is 0 there. */
export const paddingMask = (attentionMask: Value): Value =>
  additive(ops.unsqueeze(ops.not(ops.equal(attentionMask, 0)), 1, 2));

const additive = (seen: Value): Value => ops.where(seen, ops.scalar(0), ops.scalar(MASKED));

export interface AttentionOptions {
  readonly scale: number;
  /** Added to the scores: a mask, a bias by distance, their sum. Without one everything sees everything. */
  readonly mask?: Value | undefined;
  /** cap·tanh(score/cap) before the mask (Gemma 2). */
  readonly softcap?: number | undefined;
}

/** Scaled dot-product attention over `[batch, heads, length, dim]` operands, decomposed so that it can be differentiated. */
export function attend(query: Value, keys: Value, values: Value, options: AttentionOptions): Value {
  const heads = query.shape[1] as number;
  const [k, v] = [repeatHeads(keys, heads), repeatHeads(values, heads)];
  let scores = ops.matmul(query, ops.transposeLast(k));
  if (options.scale !== 1) scores = ops.mul(scores, options.scale);
  if (options.softcap !== undefined) {
    scores = ops.mul(ops.tanh(ops.mul(scores, 1 / options.softcap)), options.softcap);
  }
  if (options.mask) scores = ops.add(scores, options.mask);
  return ops.matmul(ops.softmax(scores), v);
}

/** Grouped-query attention: each key/value head serves consecutive query heads. */
function repeatHeads(x: Value, heads: number): Value {
  const [batch, own, length, dim] = x.shape as [Dim, number, Dim, number];
  if (own === heads) return x;
  const grouped = ops.expand(ops.unsqueeze(x, 2), [batch, own, heads / own, length, dim], [x]);
  return ops.reshape(grouped, [batch, heads, length, dim], [x]);
}

/** Puts the cached keys and values of `layer` in front of the new ones. */
export function withPast(key: Value, value: Value, inputs: Pick<LmInputs, "past">, layer: number): KeyValue {
  const past = inputs.past?.layers[layer];
  if (!past) return { key, value };
  return { key: ops.concat([past.key, key], 2), value: ops.concat([past.value, value], 2) };
}
