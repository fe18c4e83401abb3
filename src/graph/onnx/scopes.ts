import type { Value } from "../types.js";
import type { NodeProto } from "./generated/onnx_pb.js";
import { scopeOf } from "./names.js";

/** Last parts of parameter names in the frameworks that export ONNX. */
const PARAMETER =
  /\.(weight|bias|weight_[a-z]+|bias_[a-z]+|gamma|beta|kernel|scale|embeddings?|running_mean|running_var|qweight|scales|qzeros|lora_[AB])(_[a-z\d]+)?$/;

/**
 * The module path of an imported node: from the exporter's scope metadata, else from a name that is a path, else
 * from the parameter it reads (`encoder.layer.0.query.weight`).
 */
export function importedScope(node: NodeProto, inputs: readonly (Value | undefined)[]): string {
  const scopes = node.metadataProps.find(({ key }) => key === "pkg.torch.onnx.name_scopes")?.value;
  const listed = scopes && [...scopes.matchAll(/'([^']*)'/g)].map((match) => match[1] as string);
  if (listed && listed.length > 1) return listed.at(-2) ?? "";
  if (node.name.startsWith("/")) return scopeOf(node.name);
  if (node.name.includes("/")) return tensorflowScope(node.name);
  for (const value of inputs) {
    if (value?.source.kind === "constant" && value.name && PARAMETER.test(value.name)) {
      return value.name.replace(PARAMETER, "");
    }
  }
  return "";
}

/** What wraps a saved model, and says nothing about its modules. */
const WRAPPER = /^(StatefulPartitionedCall|PartitionedCall|serving_default|functional(_\d+)?)$/;

/**
 * The layer in a node name of TensorFlow: `model/dense_2/MatMul;model/dense_2/BiasAdd` is of `model.dense_2`. Operators are
 * written in camel case there, layers are not; converters append `__12`.
 */
function tensorflowScope(name: string): string {
  const [first = ""] = name.split(";");
  const parts = first
    .replace(/:\d+$/, "")
    .replace(/__\d+$/, "")
    .split("/")
    .filter((part) => part !== "" && !WRAPPER.test(part));
  while (parts.length > 1 && /^[A-Z]/.test(parts.at(-1) ?? "")) parts.pop();
  return parts.join(".");
}
