import { bytesOf, isTensorRef, type Tensor, type TensorRef } from "../../tensor/index.js";
import { rewrite } from "../rewrite.js";
import { constantsOf, subgraphs } from "../traverse.js";
import type { Attr, Graph, Node, Value } from "../types.js";

/** Operators that give another result every time. */
const RANDOM = /^(Random|Bernoulli|Multinomial|Dropout)/;

/** Constants of at most this many bytes are compared by content, larger ones by the object that holds them. */
const SMALL_BYTES = 1024;

/**
 * Joins nodes that compute the same from the same inputs, and equal small constants. Operators with sub-graphs,
 * random operators and markers are left alone.
 *
 * @example
 * ```ts
 * import { eliminateCommon, input, makeGraph, ops } from "tunesmith/graph";
 * const x = input("x", "float32", [4]);
 * const graph = makeGraph("main", [x], [["y", ops.add(ops.exp(x), ops.exp(x))]]);
 * console.log(eliminateCommon(graph)); // one Exp
 * ```
 */
export function eliminateCommon(graph: Graph): Graph {
  const seen = new Map<string, readonly Value[]>();
  return rewrite(graph, {
    replace: equalConstants(graph),
    // A value of one sub-graph cannot stand in for one outside it.
    visitInner: false,
    visit(node, inputs, rebuild) {
      const key = nodeKey(node, inputs);
      if (key === undefined) return undefined;
      const first = seen.get(key);
      if (first) return first;
      const results = rebuild();
      seen.set(key, results);
      return results;
    },
  });
}

function nodeKey(node: Node, inputs: readonly (Value | undefined)[]): string | undefined {
  const opaque = RANDOM.test(node.op) || node.domain === "tunesmith" || subgraphs(node).length > 0;
  if (opaque) return undefined;
  const attrs = Object.entries(node.attrs)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, attr]) => `${name}=${attrKey(attr)}`);
  const ids = inputs.map((value) => value?.id ?? "");
  return [node.domain, node.op, node.outputs.length, ids.join(","), ...attrs].join("|");
}

function attrKey(attr: Attr): string {
  if ("t" in attr) return `${attr.t.dtype}[${attr.t.shape}]${contentKey(attr.t)}`;
  return JSON.stringify(attr, (_, value) => (typeof value === "bigint" ? `${value}n` : value));
}

const contentKey = (data: Tensor) =>
  data.dtype === "string" ? JSON.stringify(data.data) : String(bytesOf(data));

function equalConstants(graph: Graph): Map<Value, Value> {
  const bySource = new Map<unknown, Value>();
  const replace = new Map<Value, Value>();
  for (const value of constantsOf(graph)) {
    if (value.source.kind !== "constant") continue;
    const key = constantKey(value.source.data);
    const first = bySource.get(key);
    if (first) replace.set(value, first);
    else bySource.set(key, value);
  }
  return replace;
}

function constantKey(data: Tensor | TensorRef): unknown {
  if (isTensorRef(data)) return data;
  const small = data.dtype === "string" || bytesOf(data).byteLength <= SMALL_BYTES;
  return small ? `${data.dtype}[${data.shape}]${contentKey(data)}` : data;
}
