import { TunesmithError } from "../errors/index.js";
import type { Attr, Graph, Node, Value } from "./types.js";

/** Sub-graphs held in a node's attributes (If, Loop, Scan). */
export function subgraphs(node: Node): Graph[] {
  return Object.values(node.attrs).flatMap((attr: Attr) => ("g" in attr ? [attr.g] : []));
}

/** Values a node depends on: its inputs and whatever its sub-graphs capture from outside. */
export function dependencies(node: Node): Value[] {
  const direct = node.inputs.filter((value): value is Value => value !== undefined);
  return direct.concat(subgraphs(node).flatMap((graph) => graph.captures ?? []));
}

/** Everything reached backwards from `outputs`, stopping at `stops`; both lists in ascending id (topological) order. */
export function reach(
  outputs: Iterable<Value>,
  stops: ReadonlySet<Value> = new Set(),
): { nodes: Node[]; values: Value[] } {
  const seenNodes = new Set<Node>();
  const seenValues = new Set<Value>();
  const stack: Value[] = [...outputs];
  for (let value = stack.pop(); value !== undefined; value = stack.pop()) {
    if (seenValues.has(value)) continue;
    seenValues.add(value);
    if (value.source.kind !== "node" || stops.has(value) || seenNodes.has(value.source.node)) continue;
    seenNodes.add(value.source.node);
    stack.push(...dependencies(value.source.node));
  }
  const byId = (a: { id: number }, b: { id: number }) => a.id - b.id;
  return { nodes: [...seenNodes].sort(byId), values: [...seenValues].sort(byId) };
}

/** Nodes of a graph in execution (creation) order. */
export const nodesOf = (graph: Graph): Node[] => reach(graph.outputs.values()).nodes;

/** A graph with what it holds, and every graph nested in its nodes likewise. */
export function* nestedGraphs(
  graph: Graph,
): Generator<{ readonly graph: Graph; readonly nodes: readonly Node[]; readonly values: readonly Value[] }> {
  const stops = graph.captures ? new Set([...graph.inputs, ...graph.captures]) : undefined;
  const { nodes, values } = reach(graph.outputs.values(), stops);
  yield { graph, nodes, values };
  for (const inner of nodes.flatMap(subgraphs)) yield* nestedGraphs(inner);
}

/** Constants a graph reads, in order of creation. */
export const constantsOf = (graph: Graph): Value[] =>
  reach(graph.outputs.values()).values.filter((value) => value.source.kind === "constant");

/** Consumers of every value in the graph. */
export function usesOf(graph: Graph): Map<Value, Node[]> {
  const uses = new Map<Value, Node[]>();
  for (const node of nodesOf(graph)) {
    for (const value of new Set(dependencies(node))) {
      const list = uses.get(value);
      if (list) list.push(node);
      else uses.set(value, [node]);
    }
  }
  return uses;
}

/** The output named `name`; throws `tensor-not-found` listing what there is. */
export function outputNamed(graph: Graph, name: string): Value {
  const value = graph.outputs.get(name);
  if (value) return value;
  throw new TunesmithError("tensor-not-found", `graph '${graph.name}' has no output '${name}'`, {
    fix: `use one of: ${[...graph.outputs.keys()].join(", ")}`,
  });
}
