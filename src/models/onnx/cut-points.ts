import { type Dim, dimProduct, ops, reach, rewriteValues, type Value } from "../../graph/index.js";

const SHAPE_ONLY = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Transpose"]);

/**
 * The residual stream of a network: values of hidden width through which everything computed from the tokens passes, so
 * that a run can start at each. Found as the points of a topological order where only one such value is still needed.
 *
 * @param ids The token ids; what depends on positions and masks alone may be computed anywhere.
 */
export function residualPoints(hidden: Value, ids: Value, tokens: Dim): Value[] {
  const width = hidden.shape.at(-1);
  const { nodes } = reach([hidden]);
  const stream = new Set<Value>([ids]);
  const uses = new Map<Value, number>([[hidden, 1]]);
  for (const node of nodes) {
    for (const value of node.inputs) if (value) uses.set(value, (uses.get(value) ?? 0) + 1);
    if (node.op === "Shape" || node.op === "Size") continue;
    if (node.inputs.some((value) => value && stream.has(value)))
      for (const value of node.outputs) stream.add(value);
  }
  const points: Value[] = [];
  const live = new Map<Value, number>([[ids, uses.get(ids) ?? 0]]);
  for (const node of nodes) {
    for (const value of node.inputs) {
      const left = value && live.get(value);
      if (value === undefined || left === undefined) continue;
      if (left > 1) live.set(value, left - 1);
      else live.delete(value);
    }
    for (const value of node.outputs) {
      const count = uses.get(value) ?? 0;
      if (count > 0 && stream.has(value)) live.set(value, count);
    }
    const [only] = live.keys();
    if (live.size !== 1 || only === undefined || only === points.at(-1)) continue;
    if (isResidual(only, uses.get(only) ?? 0, tokens, width)) points.push(only);
  }
  return points;
}

/** A sum, or a value used more than once (by a block and by the sum after it). */
function isResidual(value: Value, uses: number, tokens: Dim, width: Dim | undefined): boolean {
  if (value.source.kind !== "node" || value.dtype !== "float32" || value.shape.at(-1) !== width) return false;
  if (SHAPE_ONLY.has(value.source.node.op)) return false;
  if (dimProduct(value.shape.slice(0, -1)) !== tokens) return false;
  return uses > 1 || value.source.node.op === "Add";
}

/**
 * The same values with the stream led through matrices `[tokens, hidden]` at `points`: those come back too, in order.
 */
export function throughMatrices(
  outputs: readonly Value[],
  points: readonly Value[],
  tokens: Dim,
  like: Value,
): { readonly get: (value: Value) => Value; readonly boundaries: Value[] } {
  const wanted = new Set(points);
  const boundaries: Value[] = [];
  const get = rewriteValues(outputs, {
    visit(node, _inputs, rebuild) {
      if (!node.outputs.some((value) => wanted.has(value))) return undefined;
      const results = rebuild();
      return results.map((result, at) => {
        if (!wanted.has(node.outputs[at] as Value)) return result;
        const width = result.shape.at(-1) as Dim;
        const rows = ops.reshape(result, [tokens, width], [like]);
        boundaries.push(rows);
        return ops.reshape(rows, result.shape, [like]);
      });
    },
  });
  return { get, boundaries };
}
