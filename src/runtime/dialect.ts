/**
 * One graph, several backends: where a backend has no kernel for an operator, or a wrong one, the operator is written
 * with others. Facts about kernels are those of the pinned ONNX Runtime; test/browser compares every operator.
 */
import { TunesmithError } from "../errors/index.js";
import { describe, type Graph, type Node, rewrite, type Value, withScope } from "../graph/index.js";
import type { Backend } from "./ort/types.js";
import { expansions, type Substitute, substitutes } from "./substitutes.js";

/**
 * The same computation in operators that `backend` has. CPU and WASM share their kernels and get the graph unchanged;
 * for WebGPU, operators without a kernel (which would copy their operands to the CPU and back), those that fail at run
 * time and those that give wrong numbers are replaced. What has no exact substitute stays and runs on the CPU.
 *
 * Throws `attribute-unsupported` for the few uses that would silently compute something else: training-mode Dropout,
 * GroupQueryAttention with a soft cap, MatMulBnb4 without transB.
 *
 * @example
 * ```ts
 * import { input, makeGraph, ops } from "tunesmith/graph";
 * import { forBackend } from "tunesmith/runtime";
 * const x = input("x", "float32", [2, 3]);
 * const graph = forBackend(makeGraph("g", [x], [["y", ops.logSoftmax(x)]]), "webgpu"); // Exp, ReduceSum, Log, ...
 * console.log(graph.outputs.size);
 * ```
 */
export function forBackend(graph: Graph, backend: Backend): Graph {
  if (backend !== "webgpu") return graph;
  const apply = (from: Graph, table: ReadonlyMap<string, Substitute>) =>
    rewrite(from, {
      visit(node, inputs) {
        refuseWrongKernels(node);
        const substitute = table.get(node.domain ? `${node.domain}.${node.op}` : node.op);
        return (
          substitute && withScope(node.scope, () => substitute(inputs as readonly Value[], node) as Value[])
        );
      },
    });
  // What an expansion is written with may need a substitute in turn.
  return apply(apply(graph, expansions), substitutes);
}

const int = (node: Node, name: string): number => {
  const attr = node.attrs[name];
  return attr && "i" in attr ? Number(attr.i) : 0;
};

function refuseWrongKernels(node: Node): void {
  const attr = node.attrs.softcap;
  const cap = attr && "f" in attr ? attr.f : 0;
  if (node.op === "GroupQueryAttention" && cap !== 0) {
    throw wrong(node, "its WebGPU kernel ignores softcap", "decompose the attention, or use backend 'wasm'");
  }
  if (node.op === "MatMulBnb4" && "transB" in node.attrs && int(node, "transB") === 0) {
    throw wrong(node, "its kernels give wrong numbers for transB=0", "dequantise the weight and use MatMul");
  }
}

function wrong(node: Node, why: string, fix: string): TunesmithError {
  return new TunesmithError("attribute-unsupported", `${describe(node)}: ${why}`, {
    fix,
    details: { op: node.op },
  });
}
