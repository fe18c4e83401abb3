import { TunesmithError } from "../../errors/index.js";
import { input, makeNode } from "../create.js";
import { bindDim, symbolsOf } from "../dims.js";
import { hasRule } from "../infer/index.js";
import { rewriteValues } from "../rewrite.js";
import { nestedGraphs } from "../traverse.js";
import type { Graph, Node, Shape, Value } from "../types.js";
import { takenBranch } from "./fold.js";

/**
 * Gives symbolic dimensions their lengths and infers everything again. A static graph needs no shape arithmetic in
 * its gradient, and ONNX Runtime plans its memory ahead. An If whose condition is thereby known becomes the branch it takes.
 *
 * @param bindings Lengths by symbol; symbols left out stay symbolic.
 * Throws `config-invalid` for an unknown symbol or an impossible length, `shape-mismatch` when the lengths do not fit.
 *
 * @example
 * ```ts
 * import { input, makeGraph, ops, specialise } from "tunesmith/graph";
 * const x = input("x", "float32", ["batch", "length", 8]);
 * const graph = makeGraph("main", [x], [["y", ops.softmax(x)]]);
 * console.log(specialise(graph, { batch: 4, length: 128 }).outputs.get("y")?.shape); // [4, 128, 8]
 * ```
 */
export function specialise(graph: Graph, bindings: Readonly<Record<string, number>>): Graph {
  check(graph, bindings);
  const bind = (shape: Shape) => shape.map((dim) => bindDim(dim, bindings));
  const replace = new Map<Value, Value>();
  for (const value of [...nestedGraphs(graph)].flatMap((each) => each.graph.inputs)) {
    const shape = bind(value.shape);
    if (shape.some((dim, axis) => dim !== value.shape[axis])) {
      replace.set(value, input(value.name ?? "", value.dtype, shape));
    }
  }
  const get = rewriteValues(graph.outputs.values(), {
    replace,
    visit: (node, inputs, rebuild) => {
      if (!hasRule(node.op, node.domain)) return opaque(node, inputs, bind);
      return node.op === "If" ? takenBranch(rebuild(), inputs) : undefined;
    },
  });
  return {
    ...graph,
    inputs: graph.inputs.map(get),
    outputs: new Map([...graph.outputs].map(([name, value]) => [name, get(value)])),
  };
}

/** An operator that inference does not know keeps its declared results, with the lengths filled in. */
function opaque(
  node: Node,
  inputs: readonly (Value | undefined)[],
  bind: (shape: Shape) => Shape,
): readonly Value[] {
  return makeNode(node.op, inputs, node.attrs, {
    domain: node.domain,
    name: node.name,
    scope: node.scope,
    outputNames: node.outputs.map((value) => value.name),
    fallback: node.outputs.map((value) => ({ dtype: value.dtype, shape: bind(value.shape) })),
  }).outputs;
}

function check(graph: Graph, bindings: Readonly<Record<string, number>>): void {
  const symbols = new Set(graph.inputs.flatMap((value) => value.shape.flatMap(symbolsOf)));
  for (const [name, length] of Object.entries(bindings)) {
    if (!symbols.has(name)) {
      throw new TunesmithError("config-invalid", `graph '${graph.name}' has no dimension '${name}'`, {
        fix: symbols.size > 0 ? `its dimensions are ${[...symbols].join(", ")}` : "all its inputs are static",
        details: { name },
      });
    }
    if (!Number.isSafeInteger(length) || length < 0) {
      throw new TunesmithError("config-invalid", `dimension '${name}' cannot have length ${length}`, {
        fix: "give a non-negative integer",
        details: { name, length },
      });
    }
  }
}
