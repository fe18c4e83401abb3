import { dependencies, type Graph, type Node, nodesOf, staticShape, type Value } from "../graph/index.js";
import { byteLengthOf } from "../tensor/index.js";

/** Bytes of a value; 0 for one whose size is not known before it runs. */
export function bytesOf(value: Value): number {
  const shape = staticShape(value.shape);
  return shape && value.dtype !== "string"
    ? byteLengthOf(
        value.dtype,
        shape.reduce((a, b) => a * b, 1),
      )
    : 0;
}

/** Nodes whose output is their input's memory under another shape. */
const VIEWS = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"]);
/** Kernels that may write over an operand of the output's shape that nobody reads again (`MayInplace` in ONNX Runtime). */
const IN_PLACE = new Set(
  "Add Sub Mul Div Neg Exp Log Sqrt Tanh Sigmoid Relu Erf Reciprocal Softmax Clip Abs".split(" "),
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

/** A piece of memory that one value after another uses, from the node that fills it first to the last that reads it. */
export interface Buffer {
  readonly bytes: number;
  readonly from: number;
  to: number;
}

/**
 * The buffers of a run as ONNX Runtime's planner lays them (allocation_planner.cc): views share memory, elementwise
 * kernels write over what nobody reads again, and a new value takes the buffer of a dead one of equal shape, the latest
 * first. A buffer that is taken again later stays allocated in between.
 */
export function plannedBuffers(graph: Graph): Buffer[] {
  const nodes = executionOrder(graph);
  const owner = new Map<Value, Value>();
  const rootOf = (value: Value) => owner.get(value) ?? value;
  for (const { op, inputs, outputs } of nodes) {
    const [from, to] = [inputs[0], outputs[0]];
    if (VIEWS.has(op) && from && to) owner.set(to, rootOf(from));
  }
  const uses = new Map<Value, number>();
  const touch = (value: Value) => uses.set(rootOf(value), (uses.get(rootOf(value)) ?? 0) + 1);
  for (const node of nodes) for (const value of node.inputs) if (value) touch(value);
  const returned = new Set([...graph.outputs.values()].map(rootOf));
  const buffers = new Map<Value, Buffer>();
  const all: Buffer[] = [];
  const free = new Map<string, Value[]>();
  for (const [at, node] of nodes.entries()) {
    if (!VIEWS.has(node.op)) {
      for (const value of node.outputs) {
        if (!uses.has(value) && !returned.has(value)) continue;
        const taken = returned.has(value) ? undefined : (inPlace(node, value, uses, rootOf, buffers) ?? free.get(kindOf(value))?.pop());
        const known = taken && buffers.get(taken);
        const buffer = known ?? { bytes: bytesOf(value), from: at, to: at };
        if (!known) all.push(buffer);
        if (taken) buffers.delete(taken);
        buffers.set(value, buffer);
      }
    }
    for (const value of node.inputs) {
      if (!value) continue;
      const root = rootOf(value);
      const buffer = buffers.get(root);
      const left = (uses.get(root) ?? 0) - 1;
      uses.set(root, left);
      if (!buffer) continue;
      buffer.to = at;
      if (left === 0 && !returned.has(root)) {
        const kind = kindOf(root);
        free.set(kind, [...(free.get(kind) ?? []), root]);
      }
    }
  }
  for (const value of returned) {
    const buffer = buffers.get(value);
    if (buffer) buffer.to = nodes.length;
  }
  return all;
}

const kindOf = (value: Value): string => `${byteLengthOf(value.dtype === "string" ? "int64" : value.dtype, 1)}/${value.shape.join()}`;

/** The operand whose buffer a kernel writes its output into. */
function inPlace(
  node: Node,
  output: Value,
  uses: ReadonlyMap<Value, number>,
  rootOf: (value: Value) => Value,
  buffers: ReadonlyMap<Value, Buffer>,
): Value | undefined {
  if (!IN_PLACE.has(node.op)) return undefined;
  for (const value of node.inputs) {
    if (!value) continue;
    const root = rootOf(value);
    if (uses.get(root) === 1 && buffers.has(root) && kindOf(value) === kindOf(output)) return root;
  }
  return undefined;
}

export function peakOf(graph: Graph): number {
  return peakOfBuffers(plannedBuffers(graph));
}
export function peakOfBuffers(buffers: readonly Buffer[]): number {
  const events = buffers.flatMap(({ bytes, from, to }): [number, number][] => [[from, bytes], [to + 0.5, -bytes]]);
  events.sort((a, b) => a[0] - b[0]);
  let [alive, peak] = [0, 0];
  for (const [, bytes] of events) { alive += bytes; peak = Math.max(peak, alive); }
  return peak;
}
