import type { Node, Value } from "../graph/index.js";

/** Nodes that the runtime computes once, when a session is made: all they read is constant. */
export function foldedNodes(nodes: readonly Node[]): ReadonlySet<Node> {
  const fixed = new Set<Node>();
  for (const node of nodes) {
    const inputs = node.inputs.filter((value) => value !== undefined);
    if (inputs.length > 0 && node.op !== "DequantizeLinear" && inputs.every((value) => isFixed(value, fixed)))
      fixed.add(node);
  }
  return fixed;
}

/** Whether a value is a constant, or computed once from constants. */
export const isFixed = ({ source }: Value, fixed: ReadonlySet<Node>): boolean =>
  source.kind === "constant" || (source.kind === "node" && fixed.has(source.node));
