import { TunesmithError } from "../../errors/index.js";
import { describe } from "../create.js";
import { rewrite } from "../rewrite.js";
import type { Graph } from "../types.js";

/**
 * The graph without `tunesmith` marker nodes: each becomes its first input. Markers only speak to differentiation;
 * ONNX Runtime does not know them. What only their derivative reads (`saved` values) disappears with them.
 */
export function lowerMarkers(graph: Graph): Graph {
  return rewrite(graph, {
    visit(node, inputs) {
      if (node.domain !== "tunesmith") return undefined;
      const [first] = inputs;
      if (first) return [first];
      throw new TunesmithError("graph-invalid", `${describe(node)}: a marker needs an input`);
    },
  });
}
