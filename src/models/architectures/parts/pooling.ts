import { z } from "zod";
import { ops, type Value } from "../../../graph/index.js";
import { asSequences, firstTokens, type Tokens } from "./multi-head.js";

/** How token vectors become one vector per text; sentence-transformers keeps it in `1_Pooling/config.json`. */
export const poolingSchema = z.object({
  mode: z.enum(["mean", "cls", "max", "mean_sqrt_len"]).default("mean"),
  normalize: z.boolean().default(false),
});
export type Pooling = z.output<typeof poolingSchema>;

const FAR_BELOW = -1e9;
const TINY = 1e-12;

/** One vector per sequence, `[batch, width]`; tokens with `attentionMask` `[batch, length]` 0 have no part in it. */
export function pooled(tokens: Tokens, attentionMask: Value, { mode, normalize }: Pooling): Value {
  const vector = pool(tokens, attentionMask, mode);
  if (!normalize) return vector;
  const length = ops.sqrt(ops.reduceSum(ops.square(vector), [1], true));
  return ops.div(vector, ops.clip(length, TINY));
}

function pool(tokens: Tokens, attentionMask: Value, mode: Pooling["mode"]): Value {
  if (mode === "cls") return firstTokens(tokens);
  const sequences = asSequences(tokens);
  const column = ops.unsqueeze(attentionMask, 2);
  if (mode === "max") {
    return ops.reduceMax(ops.where(ops.equal(column, 0), FAR_BELOW, sequences), [1], false);
  }
  const seen = ops.cast(column, "float32");
  const total = ops.reduceSum(ops.mul(sequences, seen), [1], false);
  const count = ops.clip(ops.reduceSum(seen, [1], false), 1e-9);
  return ops.div(total, mode === "mean" ? count : ops.sqrt(count));
}
