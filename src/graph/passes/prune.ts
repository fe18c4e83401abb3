import { reach } from "../traverse.js";
import type { Graph } from "../types.js";

/** The graph without the inputs that no output depends on. (Unreached nodes do not exist in the first place.) */
export function prune(graph: Graph): Graph {
  const used = new Set(reach(graph.outputs.values()).values);
  return { ...graph, inputs: graph.inputs.filter((value) => used.has(value)) };
}
