import type { Node, Value } from "../graph/index.js";
import type { Site } from "../models/index.js";

/**
 * What sites read in a pass that is being rewritten. A site may span several nodes (a quantised product), so that its
 * activations are no operand of the node that gives its result.
 */
export function rewrittenInputs() {
  const now = new Map<Value, Value>();
  return {
    /** To be called for every node before it is used. */
    see(node: Node, inputs: readonly (Value | undefined)[]): void {
      for (const [at, value] of node.inputs.entries()) {
        const rewritten = inputs[at];
        if (value && rewritten && rewritten !== value) now.set(value, rewritten);
      }
    },
    of: ({ input }: Pick<Site, "input">): Value => now.get(input) ?? input,
  };
}
