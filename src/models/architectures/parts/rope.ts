import { z } from "zod";
import { TunesmithError } from "../../../errors/index.js";
import { constant, ops, type Value } from "../../../graph/index.js";
import { tensor } from "../../../tensor/index.js";

/** Rotary embedding parameters as configs write them (`rope_parameters`, or `rope_theta` + `rope_scaling`). */
export const ropeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().optional(),
  factor: z.number().optional(),
  low_freq_factor: z.number().optional(),
  high_freq_factor: z.number().optional(),
  original_max_position_embeddings: z.number().optional(),
  partial_rotary_factor: z.number().optional(),
  attention_factor: z.number().optional(),
  beta_fast: z.number().optional(),
  beta_slow: z.number().optional(),
});
export type RopeParameters = z.infer<typeof ropeSchema>;

/** cos and sin per position and frequency, `[batch, 1, length, dim/2]`. */
export interface Rotary {
  readonly cos: Value;
  readonly sin: Value;
}

/** Rotation tables for positions `[batch, length]` (int64). */
export function rotary(positions: Value, dim: number, rope: RopeParameters, maxPositions: number): Rotary {
  const { frequencies, gain } = inverseFrequencies(dim, rope, maxPositions);
  const inverse = constant(tensor("float32", [frequencies.length], Float32Array.from(frequencies)));
  const angles = ops.mul(ops.unsqueeze(ops.cast(positions, "float32"), 1, 3), inverse);
  const amplify = (x: Value) => (gain === 1 ? x : ops.mul(x, gain));
  return { cos: amplify(ops.cos(angles)), sin: amplify(ops.sin(angles)) };
}

/** Rotates halves: [a, b] → [a·cos − b·sin, b·cos + a·sin] over the last axis of `[batch, heads, length, dim]`. */
export function rotate(x: Value, { cos, sin }: Rotary): Value {
  const half = (x.shape.at(-1) as number) / 2;
  const [a, b] = ops.split(x, [half, half], x.shape.length - 1) as [Value, Value];
  const left = ops.sub(ops.mul(a, cos), ops.mul(b, sin));
  const right = ops.add(ops.mul(b, cos), ops.mul(a, sin));
  return ops.concat([left, right], x.shape.length - 1);
}

/** Inverse frequencies with the scaling of the rope type, and the factor YaRN puts on cos and sin. */
export function inverseFrequencies(
  dim: number,
  rope: RopeParameters,
  maxPositions: number,
): { frequencies: number[]; gain: number } {
  const theta = rope.rope_theta ?? 10000;
  const base = Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
  const factor = rope.factor ?? 1;
  const type = rope.rope_type ?? rope.type ?? "default";
  switch (type) {
    case "default":
      return { frequencies: base, gain: 1 };
    case "linear":
      return { frequencies: base.map((f) => f / factor), gain: 1 };
    case "llama3":
      return { frequencies: base.map((f) => llama3Frequency(f, rope, maxPositions)), gain: 1 };
    case "yarn":
      return yarn(base, dim, theta, rope, maxPositions);
    default:
      throw new TunesmithError("architecture-unsupported", `rope type '${type}' is not supported`, {
        fix: "supported: default, linear, llama3, yarn",
      });
  }
}

/** Long wavelengths are divided by the factor, short ones kept, those between interpolated. */
function llama3Frequency(frequency: number, rope: RopeParameters, maxPositions: number): number {
  const { factor = 8, low_freq_factor: low = 1, high_freq_factor: high = 4 } = rope;
  const original = rope.original_max_position_embeddings ?? maxPositions;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const smooth = (original / wavelength - low) / (high - low);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

/** YaRN (arXiv 2309.00071): ramps between interpolated and original frequencies. */
function yarn(base: number[], dim: number, theta: number, rope: RopeParameters, maxPositions: number) {
  const original = rope.original_max_position_embeddings ?? maxPositions;
  const factor = rope.factor ?? maxPositions / original;
  const dimOf = (rotations: number) =>
    (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(dimOf(rope.beta_fast ?? 32)), 0);
  const high = Math.min(Math.ceil(dimOf(rope.beta_slow ?? 1)), dim - 1);
  const width = high === low ? 0.001 : high - low;
  const frequencies = base.map((frequency, i) => {
    const interpolated = Math.min(Math.max((i - low) / width, 0), 1);
    return (frequency / factor) * interpolated + frequency * (1 - interpolated);
  });
  return { frequencies, gain: rope.attention_factor ?? (factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1) };
}
