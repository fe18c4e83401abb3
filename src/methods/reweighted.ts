import type { Node, Value, Visit } from "../graph/index.js";
import { type CausalLm, rewriteOutputs } from "../models/index.js";
import { plainFields } from "./fields.js";
import { sameOperator, withSaved } from "./saved.js";

/**
 * The model with other constants at some modules. Keys are `module.path/leaf` (`model.norm/weight`); a weight that other
 * modules share (a tied head) is changed at the named module only, which unties it.
 */
export function reweighted(model: CausalLm, changes: ReadonlyMap<string, Value>): CausalLm {
  const visit: Visit = (node, values) => {
    const swapped = withSaved(node, values, changes);
    const inputs = addedBias(node, swapped ?? values, changes) ?? swapped;
    return inputs && sameOperator(node, inputs);
  };
  const weights = new Map(model.weights);
  for (const [key, value] of changes) weights.set(key.replace("/", "."), value);
  const { parameters } = model;
  return {
    ...plainFields(model),
    parameters,
    weights,
    build: (inputs) => rewriteOutputs(model.build(inputs), { visit }),
  };
}

/** A merged bias of a linear map that had none becomes its third operand. */
function addedBias(
  node: Node,
  inputs: readonly (Value | undefined)[],
  changes: ReadonlyMap<string, Value>,
): (Value | undefined)[] | undefined {
  const bias = changes.get(`${node.scope}/bias`);
  return bias && node.op === "Gemm" && !inputs[2] ? [inputs[0], inputs[1], bias] : undefined;
}
