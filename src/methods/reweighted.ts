import type { Node, Value, Visit } from "../graph/index.js";
import { type AnyModel, type Inputs, type Model, rewriteOutputs } from "../models/index.js";
import { plainFields } from "./fields.js";
import { sameOperator, withSaved } from "./saved.js";

/**
 * The model with other constants at some modules. Keys are `module.path/leaf` (`model.norm/weight`); a weight that other
 * modules share (a tied head) is changed at the named module only, which unties it.
 */
export function reweighted<M extends Model>(model: M, changes: ReadonlyMap<string, Value>): M {
  const visit: Visit = (node, values) => {
    const swapped = withSaved(node, values, changes);
    const inputs = addedBias(node, swapped ?? values, changes) ?? swapped;
    return inputs && sameOperator(node, inputs);
  };
  const weights = new Map(model.weights);
  for (const [key, value] of changes) weights.set(key.replace("/", "."), value);
  const below: AnyModel = model;
  return {
    ...plainFields(model),
    weights,
    build: (inputs: Inputs) => rewriteOutputs(below.build(inputs), { visit }),
  } as M;
}

/** A merged bias of a map that had none becomes its third operand. */
function addedBias(
  node: Node,
  inputs: readonly (Value | undefined)[],
  changes: ReadonlyMap<string, Value>,
): (Value | undefined)[] | undefined {
  const bias = changes.get(`${node.scope}/bias`);
  const takesOne = node.op === "Gemm" || node.op === "Conv";
  return bias && takesOne && !inputs[2] ? [inputs[0], inputs[1], bias] : undefined;
}
