import { TunesmithError } from "../../errors/index.js";
import { describe, withScope } from "../create.js";
import { decompositionOf } from "../decompose/index.js";
import { rewrite } from "../rewrite.js";
import type { Graph, Value } from "../types.js";

/**
 * The graph without `tunesmith` nodes, which ONNX Runtime does not know. Markers only speak to differentiation: each becomes
 * its first input, and what only its derivative reads (`saved` values) disappears with it. Products with NormalFloat weights
 * become lookups and a Gemm.
 */
export function lowerMarkers(graph: Graph): Graph {
  return rewrite(graph, {
    visit(node, inputs) {
      if (node.domain !== "tunesmith") return undefined;
      const decompose = decompositionOf(node);
      if (decompose) return withScope(node.scope, () => decompose(inputs, node)) as readonly Value[];
      const [first] = inputs;
      if (first) return [first];
      throw new TunesmithError("graph-invalid", `${describe(node)}: a marker needs an input`);
    },
  });
}
