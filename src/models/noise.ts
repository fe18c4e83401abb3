import { input, ops, type Value } from "../graph/index.js";

/** What a random input is filled with: `keep` is 0 with `probability` and 1 otherwise. */
export type Noise =
  | { readonly kind: "keep"; readonly probability: number }
  | { readonly kind: "normal" }
  | { readonly kind: "uniform" };

const kinds = new WeakMap<Value, Noise>();

/**
 * Fresh random numbers shaped as `like`: a graph input that the training loop fills at every step from a seeded generator
 * (random operators of ONNX Runtime are neither portable nor reproducible). `key` names it, once per pass.
 */
export function noise(like: Value, kind: "normal" | "uniform", key: string): Value {
  const value = input(`noise/${key}`, "float32", like.shape);
  kinds.set(value, { kind });
  return value;
}

/** `x` with dropout; its mask is a graph input like `noise`. */
export function dropout(x: Value, probability: number, key: string): Value {
  const mask = input(`dropout/${key}`, "bool", x.shape);
  kinds.set(mask, { kind: "keep", probability });
  return ops.mul(ops.where(mask, x, 0), 1 / (1 - probability));
}

/** What a graph input is to be filled with, if it is a random one. */
export const noiseOf = (value: Value): Noise | undefined => kinds.get(value);
