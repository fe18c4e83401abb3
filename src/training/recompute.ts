import { vjp } from "../autodiff/index.js";
import { ops, reach, recompute, type Value } from "../graph/index.js";
import type { LmOutputs } from "../models/index.js";

/**
 * The same forward pass, whose backward keeps only what enters each block and computes the block's activations again
 * when it gets there (arXiv 1604.06174). The clone waits for the gradient that arrives at the block: without that edge
 * the runtime would compute it early and keep it. The last block is left alone: its backward follows at once.
 */
export function recomputeBlocks(outputs: LmOutputs): LmOutputs {
  const { boundaries } = outputs;
  const last = boundaries.length - 2;
  let entering = boundaries[0];
  if (!entering || last < 1) return outputs;
  for (let block = 0; block < last; block++) {
    const [before, behind] = [boundaries[block] as Value, boundaries[block + 1] as Value];
    const [leaving] = recompute([behind], new Map([[before, entering]])) as [Value];
    entering = recomputed(leaving, entering);
  }
  const replace = new Map([[boundaries[last] as Value, entering]]);
  const [hidden, logits] = recompute([outputs.hidden, outputs.logits], replace) as [Value, Value];
  return { ...outputs, hidden, logits };
}

/** `leaving` as a function of `entering` whose derivative is taken on a clone made when it is needed. */
function recomputed(leaving: Value, entering: Value): Value {
  const { values } = reach([leaving], new Set([entering]));
  const parameters = values.filter(
    ({ source, dtype, name }) => source.kind === "input" && dtype === "float32" && name !== "weights",
  );
  return ops.customVjp(leaving, [entering, ...parameters], [], ({ output, wrt }, dy) => {
    const [x, ...rest] = wrt as [Value, ...Value[]];
    const later = ops.after(x, dy);
    const [clone] = recompute([output], new Map([[x, later]])) as [Value];
    return vjp([{ output: clone, gradient: dy }], [later, ...rest], [later]);
  });
}
