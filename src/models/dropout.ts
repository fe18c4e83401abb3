import { input, ops, type Value } from "../graph/index.js";

const probabilities = new WeakMap<Value, number>();

/**
 * `x` with dropout: its mask is a graph input that the training loop fills from a seeded generator (random operators of
 * ONNX Runtime are neither portable nor reproducible). `key` names the mask.
 */
export function dropout(x: Value, probability: number, key: string): Value {
  const mask = input(`dropout/${key}`, "bool", x.shape);
  probabilities.set(mask, probability);
  return ops.mul(ops.where(mask, x, 0), 1 / (1 - probability));
}

/** The drop probability of a dropout mask input; undefined for other inputs. */
export const dropoutOf = (value: Value): number | undefined => probabilities.get(value);
