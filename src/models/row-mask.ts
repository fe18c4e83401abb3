import { ops, type Value } from "../graph/index.js";
import type { Inputs, LmInputs } from "./types.js";

/** float32 `[tokens]`: which rows of flattened activations are data. */
export const tokenMask = ({ segments }: Pick<LmInputs, "segments">): Value =>
  ops.reshape(ops.cast(ops.greater(segments, 0), "float32"), [-1]);

/**
 * float32 `[tokens]`, 0 for padding, of a pass whose inputs say so: segments of a language model, the mask of an encoder. Undefined
 * for others, and for two rows of tokens (encoder and decoder), which sites could not be told apart by.
 */
export function rowMask(inputs: Inputs): Value | undefined {
  if (!("values" in inputs)) return tokenMask(inputs);
  const { attention_mask: mask, decoder_input_ids: decoder } = inputs.values;
  if (!mask || decoder || mask.shape.length !== 2) return undefined;
  return ops.reshape(ops.cast(ops.greater(ops.cast(mask, "float32"), 0), "float32"), [-1]);
}
