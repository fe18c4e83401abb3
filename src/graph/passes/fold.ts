import { elementCount, type Tensor, tensor } from "../../tensor/index.js";
import { constant } from "../create.js";
import { staticShape } from "../dims.js";
import { numbersOf } from "../ints.js";
import { rewrite } from "../rewrite.js";
import type { Graph, Value } from "../types.js";
import { evaluate } from "./evaluate.js";

export interface FoldOptions {
  /** Results of more elements than this stay computed; default 4096, so that no weight is ever blown up. */
  readonly maxElements?: number;
}

/**
 * Computes what does not depend on any feed: shape arithmetic (also of static shapes of values that do), and
 * everything whose operands are small constants in memory. What remains of an exporter's shape code after
 * `specialise` disappears with it.
 */
export function fold(graph: Graph, options: FoldOptions = {}): Graph {
  const { maxElements = 4096 } = options;
  return rewrite(graph, {
    visit(node, inputs, rebuild) {
      if (node.domain !== "" || node.op === "Identity") return undefined;
      const results = rebuild();
      if (!results.every((value) => sizeOf(value) <= maxElements)) return results;
      const known = results.map(knownIntegers);
      const values = known.every((data) => data !== undefined) ? known : evaluate(node, inputs, results);
      return values ? values.map((data, index) => constant(data as Tensor, results[index]?.name)) : results;
    },
  });
}

function sizeOf(value: Value): number {
  const shape = staticShape(value.shape);
  return shape ? elementCount(shape) : Number.POSITIVE_INFINITY;
}

function knownIntegers(value: Value): Tensor | undefined {
  const shape = staticShape(value.shape);
  const numbers = shape && numbersOf(value);
  if (!numbers || numbers.length !== elementCount(shape) || !numbers.every(Number.isSafeInteger))
    return undefined;
  if (value.dtype !== "int64" && value.dtype !== "int32" && value.dtype !== "bool") return undefined;
  return tensor(value.dtype, shape, numbers);
}
