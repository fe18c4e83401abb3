import { withScope } from "../create.js";
import { decompositionOf } from "../decompose/index.js";
import { rewrite } from "../rewrite.js";
import { nodesOf, subgraphs, usesOf } from "../traverse.js";
import type { Graph, Node } from "../types.js";

/**
 * Replaces fused and compound operators (recurrent cells, norms, losses, pooling, resizing, ...) by simpler ones,
 * until none is left that `which` asks for. Default: every operator that has a decomposition. A node stays when
 * something reads an output that its decomposition does not give.
 *
 * @example
 * ```ts
 * import { decompose, input, makeGraph, op } from "tunesmith/graph";
 * const x = input("x", "float32", [1, 3, 4, 4]);
 * const graph = makeGraph("pool", [x], [["y", op("GlobalAveragePool", [x])]]);
 * const simple = decompose(graph, (node) => node.op === "GlobalAveragePool"); // a ReduceMean
 * console.log(simple.outputs.get("y")?.shape);
 * ```
 */
export function decompose(graph: Graph, which: (node: Node) => boolean = () => true): Graph {
  const kept = new Set<Node>();
  let result = graph;
  for (;;) {
    const todo = new Set(
      nodesOf(result).filter((node) => !kept.has(node) && decompositionOf(node) && which(node)),
    );
    if (todo.size === 0) return result;
    const uses = usesOf(result);
    const outputs = new Set(result.outputs.values());
    result = rewrite(result, {
      visit: (node, inputs, rebuild) => {
        if (!todo.has(node)) return undefined;
        // Sub-graphs must be the rewritten ones.
        const source = subgraphs(node).length > 0 ? rebuild()[0]?.source : undefined;
        const current = source?.kind === "node" ? source.node : node;
        const parts = withScope(node.scope, () => decompositionOf(node)?.(inputs, current)) ?? [];
        const complete = node.outputs.every(
          (value, at) => parts[at] || !(uses.has(value) || outputs.has(value)),
        );
        if (complete)
          return parts.map((part, at) => part ?? node.outputs[at]).filter((value) => value !== undefined);
        const same = rebuild();
        for (const value of same) if (value.source.kind === "node") kept.add(value.source.node);
        return same;
      },
    });
  }
}
