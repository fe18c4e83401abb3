import { makeNode } from "./create.js";
import { reach } from "./traverse.js";
import type { Attr, Attrs, Graph, Node, Value } from "./types.js";

/**
 * What a visitor may do with a node whose inputs have been rewritten: return replacement outputs, or undefined to
 * keep the operator. `rebuild()` creates the same operator over the rewritten inputs (to wrap what it would give).
 */
export type Visit = (
  node: Node,
  inputs: readonly (Value | undefined)[],
  rebuild: () => readonly Value[],
) => readonly Value[] | undefined;

export interface RewriteOptions {
  readonly visit?: Visit;
  /** Values replaced before anything else; what lies only below them disappears. */
  readonly replace?: ReadonlyMap<Value, Value>;
  /** Rebuild every node even when nothing below it changed (a deep clone, or re-inference of shapes). */
  readonly always?: boolean;
  /** Whether `visit` also sees the nodes of sub-graphs; default true. */
  readonly visitInner?: boolean;
}

/**
 * Rewrites the values `outputs` reach, in topological order, and returns the map from old values to new. Untouched
 * parts are shared, not copied. This is the one mechanism behind adapters, decomposition, specialisation, cloning
 * and extraction.
 */
export function rewriteValues(outputs: Iterable<Value>, options: RewriteOptions): (value: Value) => Value {
  const { visit, always } = options;
  const map = new Map<Value, Value>(options.replace);
  const get = (value: Value): Value => map.get(value) ?? value;
  const { nodes } = reach(outputs, new Set(map.keys()));
  for (const node of nodes) {
    const inputs = node.inputs.map((value) => value && get(value));
    const attrs = rewriteAttrs(node, get, options);
    const changed =
      always || attrs !== node.attrs || inputs.some((value, index) => value !== node.inputs[index]);
    let rebuilt: readonly Value[] | undefined;
    const rebuild = () => {
      rebuilt ??= changed ? cloneNode(node, inputs, attrs).outputs : node.outputs;
      return rebuilt;
    };
    const results = visit?.(node, inputs, rebuild) ?? rebuild();
    node.outputs.forEach((old, index) => {
      const replacement = results[index];
      if (replacement && replacement !== old && !options.replace?.has(old)) map.set(old, replacement);
    });
  }
  return get;
}

function cloneNode(node: Node, inputs: readonly (Value | undefined)[], attrs: Attrs): Node {
  return makeNode(node.op, inputs, attrs, {
    domain: node.domain,
    outputs: node.outputs.length,
    name: node.name,
    scope: node.scope,
    outputNames: node.outputs.map((value) => value.name),
    fallback: node.outputs,
  });
}

/** The node's attributes with rewritten sub-graphs; the same object when nothing in them changed. */
function rewriteAttrs(node: Node, get: (value: Value) => Value, options: RewriteOptions): Attrs {
  let changed = false;
  const attrs = Object.entries(node.attrs).map(([key, attr]): [string, Attr] => {
    if (!("g" in attr)) return [key, attr];
    const inner = rewriteInner(attr.g, get, options);
    changed ||= inner !== attr.g;
    return [key, inner === attr.g ? attr : { g: inner }];
  });
  return changed ? Object.fromEntries(attrs) : node.attrs;
}

/** Sub-graphs see the outer replacements of what they capture. */
function rewriteInner(graph: Graph, get: (value: Value) => Value, options: RewriteOptions): Graph {
  const captures = graph.captures ?? [];
  const seen = [...graph.inputs, ...captures].map((value) => [value, get(value)] as const);
  const replace = new Map([...(options.replace ?? []), ...seen]);
  const visit = options.visitInner === false ? undefined : options.visit;
  const inner = rewriteValues(graph.outputs.values(), { ...options, visit, replace });
  const same = [...captures, ...graph.inputs].every((value) => get(value) === value);
  if (same && [...graph.outputs.values()].every((value) => inner(value) === value)) return graph;
  return { ...mapOutputs(graph, inner), captures: captures.map(get) };
}

function mapOutputs(graph: Graph, get: (value: Value) => Value, inputs?: readonly Value[]): Graph {
  return {
    name: graph.name,
    inputs: inputs ?? graph.inputs.map(get),
    outputs: new Map([...graph.outputs].map(([name, value]) => [name, get(value)])),
  };
}

/** Rewrites a whole graph with a visitor. */
export function rewrite(graph: Graph, options: RewriteOptions): Graph {
  const get = rewriteValues(graph.outputs.values(), options);
  return mapOutputs(graph, get);
}

/** The same computation with some values replaced; new `inputs` may be named. */
export function substitute(
  graph: Graph,
  replace: ReadonlyMap<Value, Value>,
  inputs: readonly Value[] = graph.inputs.map((value) => replace.get(value) ?? value),
): Graph {
  return mapOutputs(graph, rewriteValues(graph.outputs.values(), { replace }), inputs);
}

/** `outputs` recomputed over replaced values: a clone of just the part that depends on them. */
export function recompute(outputs: readonly Value[], replace: ReadonlyMap<Value, Value>): Value[] {
  return outputs.map(rewriteValues(outputs, { replace }));
}
