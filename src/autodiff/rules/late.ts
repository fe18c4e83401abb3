import { op, ops, type Value } from "../../graph/index.js";

/**
 * A frozen weight as the gradient should read it: one that the graph makes from codes is made again when `d` arrives,
 * so that its floats are not kept from the forward to the backward pass. Any other weight is returned as it is.
 */
export function lateWeight(weight: Value, d: Value): Value {
  const { source } = weight;
  if (source.kind !== "node") return weight;
  const { op: name, inputs, attrs, domain } = source.node;
  const [first, scale, zero] = inputs;
  if (name === "Transpose" && domain === "" && first) {
    const made = lateWeight(first, d);
    return made === first ? weight : op("Transpose", [made], attrs);
  }
  if (name !== "DequantizeLinear" || first?.source.kind !== "constant" || !scale) return weight;
  return op(name, [first, ops.after(scale, d), zero], attrs, { domain });
}
