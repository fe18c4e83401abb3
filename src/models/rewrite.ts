import { type RewriteOptions, rewriteValues, type Value } from "../graph/index.js";
import type { Outputs } from "./types.js";

const isValue = (item: unknown): item is Value =>
  typeof item === "object" && item !== null && "source" in item && "dtype" in item;

/** A tree of plain objects and arrays with other values at its leaves. */
function mapTree(tree: unknown, map: (value: Value) => Value): unknown {
  if (isValue(tree)) return map(tree);
  if (Array.isArray(tree)) return tree.map((item) => mapTree(item, map));
  if (typeof tree !== "object" || tree === null) return tree;
  return Object.fromEntries(Object.entries(tree).map(([key, item]) => [key, mapTree(item, map)]));
}

/** Every value of a forward pass's outputs. */
export function valuesIn(outputs: Outputs): Value[] {
  const values: Value[] = [];
  mapTree(outputs, (value) => {
    values.push(value);
    return value;
  });
  return values;
}

/** What callers want of a forward pass, by name; `boundaries` and caches only help on the way. */
export const resultsOf = (outputs: Outputs): Readonly<Record<string, Value>> =>
  "values" in outputs ? outputs.values : { logits: outputs.logits };

/** The output that tells models apart: the logits, or the first there is. */
export function mainResult(outputs: Outputs): Value {
  const results = resultsOf(outputs);
  return (results.logits ?? Object.values(results)[0]) as Value;
}

/** A forward pass rewritten as a whole: every output is mapped, so it can be rewritten again. */
export function rewriteOutputs<O extends Outputs>(outputs: O, options: RewriteOptions): O {
  const get = rewriteValues(valuesIn(outputs), options);
  return mapTree(outputs, get) as O;
}
