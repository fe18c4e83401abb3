import { makeNode, op } from "../create.js";
import type { Value } from "../types.js";

/** LayerNormalization over the last axis; the statistics outputs exist so that its derivative need not recompute them. */
export function layerNorm(x: Value, gamma: Value, beta: Value | undefined, epsilon: number): Value {
  const attrs = { axis: { i: -1 }, epsilon: { f: epsilon } };
  return makeNode("LayerNormalization", beta ? [x, gamma, beta] : [x, gamma], attrs, { outputs: 3 })
    .outputs[0] as Value;
}

/** x / sqrt(mean(x²) + eps) · gamma over the last axis, as one kernel. */
export function rmsNorm(x: Value, gamma: Value, epsilon: number): Value {
  return op("SimplifiedLayerNormalization", [x, gamma], {
    axis: { i: -1 },
    epsilon: { f: epsilon },
    stash_type: { i: 1 },
  });
}
