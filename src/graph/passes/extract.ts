import { TunesmithError } from "../../errors/index.js";
import { input } from "../create.js";
import { rewriteValues } from "../rewrite.js";
import { reach } from "../traverse.js";
import type { Graph, Value } from "../types.js";

export interface ExtractOptions {
  /** Values that become inputs of the part, by their names (`value_<id>` when they have none). */
  readonly from: readonly Value[];
  /** Values that become its outputs; as a list they are called by their names. */
  readonly to: readonly Value[] | ReadonlyMap<string, Value>;
}

/**
 * The part of a graph between two sets of values, as a graph of its own. Inputs of the whole that the part still
 * reads stay inputs, after the new ones.
 *
 * Throws `name-conflict` when two of its inputs or outputs would have the same name.
 *
 * @example
 * ```ts
 * import { extract, input, makeGraph, ops } from "tunesmith/graph";
 * const x = input("x", "float32", [4]);
 * const hidden = ops.relu(x);
 * const graph = makeGraph("main", [x], [["y", ops.exp(hidden)]]);
 * const upper = extract(graph, { from: [hidden], to: graph.outputs }); // y = exp(hidden)
 * console.log(upper.inputs.length);
 * ```
 */
export function extract(graph: Graph, { from, to }: ExtractOptions): Graph {
  const nameOf = (value: Value) => value.name || `value_${value.id}`;
  const wanted =
    to instanceof Map ? [...to] : (to as readonly Value[]).map((value) => [nameOf(value), value] as const);
  const replace = new Map(
    from.map((value) => [
      value,
      value.source.kind === "input" ? value : input(nameOf(value), value.dtype, value.shape),
    ]),
  );
  const get = rewriteValues(
    wanted.map(([, value]) => value),
    { replace },
  );
  const outputs = wanted.map(([name, value]) => [name, get(value)] as const);
  const read = new Set(reach(outputs.map(([, value]) => value)).values);
  const added = [...replace.values()];
  const inputs = [...added, ...graph.inputs.filter((value) => read.has(value) && !added.includes(value))];
  const names = [...inputs.map((value) => value.name), ...outputs.map(([name]) => name)];
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) {
    throw new TunesmithError(
      "name-conflict",
      `'${twice}' would stand twice among the inputs and outputs of the part`,
      {
        fix: "give `to` as a map with other names",
        details: { name: twice },
      },
    );
  }
  return { name: graph.name, inputs, outputs: new Map(outputs) };
}
