import { elementCount } from "../../tensor/index.js";
import { constant } from "../create.js";
import { withoutControl } from "../decompose/control.js";
import { staticShape } from "../dims.js";
import { knownTensor } from "../evaluate.js";
import { rewrite } from "../rewrite.js";
import type { Graph, Value } from "../types.js";

export interface FoldOptions {
  /** Results of more elements than this stay computed; default and most 4096, so that no weight is ever blown up. */
  readonly maxElements?: number;
}

/**
 * Computes what does not depend on any feed: shape arithmetic (also of static shapes of values that do), and
 * everything whose operands are small constants in memory. What remains of an exporter's shape code after
 * `specialise` disappears with it.
 *
 * @example
 * ```ts
 * import { fold, input, makeGraph, ops } from "tunesmith/graph";
 * const x = input("x", "float32", [2, 3]);
 * const graph = makeGraph("main", [x], [["y", ops.mul(x, ops.exp(ops.scalar(1)))]]);
 * console.log(fold(graph)); // x times a constant
 * ```
 */
export function fold(graph: Graph, options: FoldOptions = {}): Graph {
  const { maxElements = 4096 } = options;
  return rewrite(graph, {
    visit(node, inputs, rebuild) {
      if (node.domain !== "" || node.op === "Identity") return undefined;
      const results = rebuild();
      const branch = node.op === "If" ? takenBranch(results, inputs) : undefined;
      if (branch) return branch;
      if (!results.every((value) => sizeOf(value) <= maxElements)) return results;
      const known = results.map(knownTensor);
      return known.every((data) => data !== undefined)
        ? known.map((data, index) => constant(data, results[index]?.name))
        : results;
    },
  });
}

/** The results of the branch that an If with a known condition takes. */
export function takenBranch(
  [first]: readonly Value[],
  inputs: readonly (Value | undefined)[],
): readonly Value[] | undefined {
  const taken = first?.source.kind === "node" ? withoutControl(first.source.node, inputs) : undefined;
  return taken?.every((value) => value !== undefined) ? taken : undefined;
}

function sizeOf(value: Value): number {
  const shape = staticShape(value.shape);
  return shape ? elementCount(shape) : Number.POSITIVE_INFINITY;
}
