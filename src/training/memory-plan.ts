import {
  constantsOf,
  dependencies,
  type Graph,
  lowerMarkers,
  type Node,
  nodesOf,
  staticShape,
  type Value,
} from "../graph/index.js";
import { byteLengthOf } from "../tensor/index.js";
import { stepGraph } from "./graph.js";
import type { Objective, StepShape } from "./objective.js";

/** An estimate of the memory a training run takes, in bytes. */
export interface MemoryPlan {
  /** Frozen weights: pages of their files, which the system can take back. */
  readonly weights: number;
  /** Trainable and other fed parameters. */
  readonly parameters: number;
  /** Optimiser state: two numbers per trained one for Adam, and early stopping's copy is not counted. */
  readonly optimizer: number;
  /** Gradients, as the step returns them. */
  readonly gradients: number;
  /** Most that is alive at one time inside a step, gradients included: activations, logits, temporaries. */
  readonly activations: number;
  /** Sum of the above, gradients counted once. */
  readonly total: number;
}

export interface MemoryPlanOptions {
  /** Whether blocks are recomputed in the backward pass. Default false. */
  readonly recompute?: boolean;
  /** float32 numbers the optimiser keeps per trained one. Default 2 (Adam). */
  readonly stateFactor?: number;
}

/**
 * With recomputation ONNX Runtime holds more than its order of nodes needs: 2.2 and 2.3 times as much at 4 x 128 and
 * 8 x 256 tokens of a model of four layers (onnxruntime-node 1.30, the model of memory-plan.test.ts).
 */
const RECOMPUTE_FACTOR = 2.2;

/**
 * Estimates the memory of training from the step's graph alone, without running it: values live from the node that makes
 * them to the last that reads them, in ONNX Runtime's order. Its optimiser and its allocator change details, so it is an
 * estimate: measured growth lay within 35 % of it (memory-plan.test.ts).
 *
 * @example
 * ```ts
 * import { adapt, lora } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * import { memoryPlan, nextToken } from "tunesmith/training";
 * const model = await adapt(await loadModel("path/to/model"), lora());
 * const objective = nextToken(model, { batchSize: 4, lengths: [128], padId: 0 });
 * console.log(memoryPlan(objective, { batch: 4, length: 128 }).total);
 * ```
 */
export function memoryPlan(
  objective: Objective,
  shape: StepShape,
  options: MemoryPlanOptions = {},
): MemoryPlan {
  const { stateFactor = 2, recompute = false } = options;
  const { model } = objective;
  const { graph: marked, trained } = stepGraph(objective, shape, { recompute });
  const graph = lowerMarkers(marked);
  const weights = sum(constantsOf(graph).map(bytesOf));
  const parameters = sum([...model.parameters.values()].map(({ value }) => bytesOf(value)));
  const gradients = sum(trained.map(({ value }) => bytesOf(value)));
  const activations = Math.round(peakOf(graph) * (recompute ? RECOMPUTE_FACTOR : 1));
  const optimizer = stateFactor * gradients;
  return {
    weights,
    parameters,
    optimizer,
    gradients,
    activations,
    total: weights + parameters + optimizer + activations,
  };
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

function bytesOf(value: Value): number {
  const shape = staticShape(value.shape);
  return shape && value.dtype !== "string" ? byteLengthOf(value.dtype, sizeOf(shape)) : 0;
}

/** Nodes whose output is their input's memory under another shape. */
const VIEWS = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"]);
/** Nodes that may write over an operand of the output's size that nobody reads again. */
const IN_PLACE = new Set(
  "Add Sub Mul Div Neg Exp Log Sqrt Tanh Sigmoid Relu Erf Reciprocal Softmax Where Clip Abs Pow Gelu".split(
    " ",
  ),
);

/**
 * The order in which ONNX Runtime runs nodes: depth first from the nodes whose results nobody reads, the latest node
 * first (graph.cc, `ReverseDFSFrom`). It decides what is alive together.
 */
function executionOrder(graph: Graph): Node[] {
  const nodes = nodesOf(graph);
  const makers = (node: Node) =>
    [
      ...new Set(dependencies(node).flatMap(({ source }) => (source.kind === "node" ? [source.node] : []))),
    ].sort((a, b) => a.id - b.id);
  const read = new Set(nodes.flatMap(makers));
  const stack = nodes.filter((node) => !read.has(node)).map((node) => ({ node, done: false }));
  const seen = new Set<Node>();
  const order: Node[] = [];
  for (let entry = stack.pop(); entry; entry = stack.pop()) {
    const { node, done } = entry;
    if (done) order.push(node);
    if (done || seen.has(node)) continue;
    seen.add(node);
    stack.push({ node, done: true });
    for (const maker of makers(node)) if (!seen.has(maker)) stack.push({ node: maker, done: false });
  }
  return order;
}

/** The most bytes alive at one time while the graph runs. */
export function peakOf(graph: Graph): number {
  const nodes = executionOrder(graph);
  const owner = owners(nodes);
  const uses = new Map<Value, number>();
  const touch = (value: Value) => uses.set(ownerOf(owner, value), (uses.get(ownerOf(owner, value)) ?? 0) + 1);
  for (const node of nodes) for (const value of node.inputs) if (value) touch(value);
  // What is returned stays until the end.
  for (const value of graph.outputs.values()) touch(value);
  let [alive, peak] = [0, 0];
  const held = (value: Value | undefined) => value?.source.kind === "node";
  for (const node of nodes) {
    const fresh = VIEWS.has(node.op) ? [] : node.outputs.filter((value) => uses.has(value));
    const made = sum(fresh.map(bytesOf));
    const freed = node.inputs.flatMap((value) => {
      if (!value || !held(value)) return [];
      const root = ownerOf(owner, value);
      const left = (uses.get(root) ?? 0) - 1;
      uses.set(root, left);
      return left === 0 ? [bytesOf(root)] : [];
    });
    const reused = IN_PLACE.has(node.op) && freed.includes(made) ? made : 0;
    peak = Math.max(peak, alive + made - reused);
    alive += made - sum(freed);
  }
  return peak;
}

/** For every view, the value whose memory it shows. */
function owners(nodes: readonly Node[]): Map<Value, Value> {
  const owner = new Map<Value, Value>();
  for (const node of nodes) {
    const [from, to] = [node.inputs[0], node.outputs[0]];
    if (VIEWS.has(node.op) && from && to && from.source.kind === "node") owner.set(to, ownerOf(owner, from));
  }
  return owner;
}

const ownerOf = (owner: ReadonlyMap<Value, Value>, value: Value): Value => owner.get(value) ?? value;
