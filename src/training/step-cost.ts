import { lowerMarkers, type Node, nodesOf, staticShape, type Value } from "../graph/index.js";
import { foldedNodes } from "./fixed-nodes.js";
import { type StepGraphOptions, stepGraph } from "./graph.js";
import { bytesOf, VIEWS } from "./memory-arena.js";
import type { Objective, StepShape } from "./objective.js";

/** What the mathematics of one training step asks of the machine, without the optimiser. */
export interface StepCost {
  /** Additions and multiplications in matrix products and convolutions, forward and backward. */
  readonly productFlops: number;
  /** Bytes that all other operators read and write. */
  readonly passBytes: number;
  /** Operators that run; each takes the runtime some microseconds, however small its work is. */
  readonly operators: number;
}

/**
 * Counts a training step's work from its graph, as it is before the runtime fuses anything: two methods' steps compared at
 * one shape, or a time compared with what the processor could do. What is computed once from frozen weights is not
 * counted, nor are loops and branches of imported graphs.
 *
 * @example
 * ```ts
 * import { adapt, lora } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * import { nextToken, stepCost } from "tunesmith/training";
 * const model = await adapt(await loadModel("path/to/model"), lora());
 * const objective = nextToken(model, { batchSize: 4, lengths: [128], padId: 0 });
 * console.log(stepCost(objective, { batch: 4, length: 128 }).productFlops / 1e9);
 * ```
 */
export function stepCost(objective: Objective, shape: StepShape, options: StepGraphOptions = {}): StepCost {
  const nodes = nodesOf(lowerMarkers(stepGraph(objective, shape, options).graph));
  const fixed = foldedNodes(nodes);
  let [productFlops, passBytes, operators] = [0, 0, 0];
  for (const node of nodes) {
    if (fixed.has(node) || VIEWS.has(node.op) || node.op === "Shape") continue;
    operators++;
    const flops = flopsOf(node);
    if (flops !== undefined) productFlops += flops;
    else for (const value of [...node.inputs, ...node.outputs]) if (value) passBytes += bytesOf(value);
  }
  return { productFlops, passBytes, operators };
}

/** Twice the multiplications of a product; undefined for other operators. */
function flopsOf(node: Node): number | undefined {
  const { op, inputs, outputs } = node;
  const [left, right] = inputs as readonly Value[];
  if (!left || !right) return undefined;
  const out = sizeOf(outputs[0] as Value);
  const shape = staticShape(left.shape) ?? [];
  const filter = staticShape(right.shape) ?? [];
  switch (op) {
    case "MatMul":
    case "MatMulNBits":
      return 2 * out * (shape.at(-1) ?? 0);
    case "Gemm":
      return 2 * out * (shape[isSet(node, "transA") ? 0 : 1] ?? 0);
    case "Conv":
      return 2 * out * (sizeOf(right) / (filter[0] ?? 1));
    case "ConvTranspose":
      return 2 * sizeOf(left) * (sizeOf(right) / (filter[0] ?? 1));
    default:
      return undefined;
  }
}

const sizeOf = ({ shape }: Value): number => (staticShape(shape) ?? []).reduce((a, b) => a * b, 1);

function isSet({ attrs }: Node, name: string): boolean {
  const attr = attrs[name];
  return attr !== undefined && "i" in attr && Number(attr.i) === 1;
}
