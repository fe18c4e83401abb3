import { TunesmithError } from "../errors/index.js";
import type { Dtype, Tensor, TensorRef } from "../tensor/index.js";
import { hasRule, inferOutputs, type OutputSpec } from "./infer/index.js";
import type { Attrs, Graph, Node, Shape, Source, Value } from "./types.js";

let nextId = 1;
let currentScope = "";

function makeValue(dtype: Dtype, shape: Shape, source: Source, name: string | undefined): Value {
  return { id: nextId++, dtype, shape, source, name };
}

/** A graph input: fed at run time. */
export function input(name: string, dtype: Dtype, shape: Shape): Value {
  return makeValue(dtype, shape, { kind: "input" }, name);
}

/** A constant held in memory or by reference into a file; frozen weights are constants. */
export function constant(data: Tensor | TensorRef, name?: string): Value {
  return makeValue(data.dtype, data.shape, { kind: "constant", data }, name);
}

/**
 * Runs `build` with `path` appended to the module path that new nodes carry.
 *
 * @example
 * ```ts
 * import { input, ops, scope } from "tunesmith/graph";
 * const x = input("x", "float32", [2, 3]);
 * const y = scope("layers.0", () => scope("act", () => ops.relu(x))); // node scope "layers.0.act"
 * console.log(y.shape);
 * ```
 */
export function scope<T>(path: string, build: () => T): T {
  return withScope(path && currentScope ? `${currentScope}.${path}` : path || currentScope, build);
}

/** Like `scope`, with an absolute module path. */
export function withScope<T>(path: string, build: () => T): T {
  const outer = currentScope;
  currentScope = path;
  try {
    return build();
  } finally {
    currentScope = outer;
  }
}

export interface NodeOptions {
  readonly domain?: string;
  /** How many outputs to create; default: all that inference reports as mandatory. */
  readonly outputs?: number;
  readonly name?: string;
  readonly scope?: string;
  readonly outputNames?: readonly (string | undefined)[];
  /** Dtypes and shapes of the outputs of an operator that inference does not know. */
  readonly fallback?: readonly OutputSpec[];
}

/** Creates a node; its outputs' dtypes and shapes are inferred at once. Throws `shape-mismatch` on bad operands. */
export function makeNode(
  op: string,
  inputs: readonly (Value | undefined)[],
  attrs: Attrs = {},
  options: NodeOptions = {},
): Node {
  const domain = options.domain ?? "";
  const path = options.scope ?? currentScope;
  const context = { op, domain, inputs, attrs, scope: path, outputs: options.outputs };
  const specs = options.fallback && !hasRule(op, domain) ? options.fallback : inferOutputs(context);
  const node: { -readonly [K in keyof Node]: Node[K] } = {
    id: nextId++,
    op,
    domain,
    inputs,
    attrs,
    outputs: [],
    scope: path,
    name: options.name,
  };
  node.outputs = specs.map((spec, index) =>
    makeValue(spec.dtype, spec.shape, { kind: "node", node, index }, options.outputNames?.[index]),
  );
  return node;
}

/** The first output of a fresh node: what almost every builder returns. */
export function op(
  name: string,
  inputs: readonly (Value | undefined)[],
  attrs: Attrs = {},
  options: NodeOptions = {},
): Value {
  return outputOf(makeNode(name, inputs, attrs, options), 0);
}

/** Output `index` of a node. Throws `graph-invalid` when there is none. */
export function outputOf(node: Node, index: number): Value {
  const value = node.outputs[index];
  if (!value) throw new TunesmithError("graph-invalid", `${describe(node)} has no output ${index}`);
  return value;
}

/** A graph from named outputs. Inputs not listed but reached are an error, so a feed is never forgotten. */
export function makeGraph(
  name: string,
  inputs: readonly Value[],
  outputs: Iterable<readonly [string, Value]>,
): Graph {
  return { name, inputs, outputs: new Map(outputs) };
}

/** How errors name a node: operator, name and module path. */
export function describe(node: {
  op: string;
  domain: string;
  name?: string | undefined;
  scope: string;
}): string {
  const type = node.domain ? `${node.domain}.${node.op}` : node.op;
  return `${type}${node.name ? ` '${node.name}'` : ""}${node.scope ? ` in ${node.scope}` : ""}`;
}
