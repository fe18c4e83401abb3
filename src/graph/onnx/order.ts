import type { GraphProto, NodeProto } from "./generated/onnx_pb.js";

/** Names a node reads, in its sub-graphs too. */
function* reads(node: NodeProto): Generator<string> {
  yield* node.input;
  for (const { g, graphs } of node.attribute)
    for (const inner of g ? [g, ...graphs] : graphs) yield* readsInside(inner);
}

function* readsInside(graph: GraphProto): Generator<string> {
  for (const { name } of graph.output) yield name;
  for (const node of graph.node) yield* reads(node);
}

/**
 * Nodes in an order in which everything is made before it is read, the file's own where that is one: converters append
 * nodes, and ONNX Runtime sorts what it loads. A cycle is left to be found by whoever reads the nodes.
 */
export function inOrder(nodes: readonly NodeProto[]): readonly NodeProto[] {
  const makers = new Map<string, number>();
  for (const [at, { output }] of nodes.entries())
    for (const name of output) if (name !== "") makers.set(name, at);
  const needs = nodes.map((node, at) =>
    [...reads(node)].flatMap((name) => {
      const maker = makers.get(name);
      return maker === undefined || maker === at ? [] : [maker];
    }),
  );
  if (needs.every((list, at) => list.every((maker) => maker < at))) return nodes;
  const placed = new Set<number>();
  const open = new Set<number>();
  for (const start of nodes.keys()) {
    const stack = [start];
    while (stack.length > 0) {
      const at = stack.at(-1) as number;
      const next = needs[at]?.find((maker) => !placed.has(maker));
      if (next === undefined) {
        placed.add(at);
        stack.pop();
      } else if (open.has(next)) return nodes;
      else {
        open.add(at);
        stack.push(next);
      }
    }
    open.clear();
  }
  return [...placed].map((at) => nodes[at] as NodeProto);
}
