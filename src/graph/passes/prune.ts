import { reach } from "../traverse.js";
import type { Graph } from "../types.js";

/**
 * The graph without the inputs that no output depends on. (Unreached nodes do not exist in the first place.)
 *
 * @example
 * ```ts
 * import { input, makeGraph, ops, prune } from "tunesmith/graph";
 * const [x, unused] = [input("x", "float32", [4]), input("unused", "float32", [4])];
 * console.log(prune(makeGraph("main", [x, unused], [["y", ops.neg(x)]])).inputs.length); // 1
 * ```
 */
export function prune(graph: Graph): Graph {
  const used = new Set(reach(graph.outputs.values()).values);
  return { ...graph, inputs: graph.inputs.filter((value) => used.has(value)) };
}
