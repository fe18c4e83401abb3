import { TunesmithError } from "../../../errors/index.js";
import { ops, scope, type Value } from "../../../graph/index.js";
import type { WeightReader } from "../../weights.js";

/** `x · Wᵀ + b` with `W [out, in]`, at module path `path` of the current scope; `weight` names the tensor's module. */
export function linear(weights: WeightReader, path: string, weight: string, x: Value): Value {
  const bias = weights.has(`${weight}.bias`) ? weights.get(`${weight}.bias`) : undefined;
  return scope(path, () => ops.gemm(x, weights.get(`${weight}.weight`), bias, { transB: true }));
}

/** As `linear`, with the weight stored `[in, out]` (GPT-2's Conv1D). */
export function linearInOut(weights: WeightReader, path: string, weight: string, x: Value): Value {
  const bias = weights.has(`${weight}.bias`) ? weights.get(`${weight}.bias`) : undefined;
  return scope(path, () => ops.gemm(x, weights.get(`${weight}.weight`), bias));
}

/** Activations by the names that model configs have for them. */
export const activations = {
  silu: ops.silu,
  swish: ops.silu,
  relu: ops.relu,
  relu6: (x) => ops.clip(x, 0, 6),
  gelu: (x) => ops.gelu(x),
  gelu_new: (x) => ops.gelu(x, "tanh"),
  gelu_pytorch_tanh: (x) => ops.gelu(x, "tanh"),
  gelu_fast: (x) => ops.gelu(x, "tanh"),
  quick_gelu: (x) => ops.mul(x, ops.sigmoid(ops.mul(x, 1.702))),
  tanh: ops.tanh,
  sigmoid: ops.sigmoid,
} satisfies Readonly<Record<string, (x: Value) => Value>>;
/** Name of an activation. */
export type ActivationName = keyof typeof activations;

/** The activation a config names; throws `architecture-unsupported` for one we lack. */
export function activation(name: string): (x: Value) => Value {
  if (Object.hasOwn(activations, name)) return activations[name as ActivationName];
  throw new TunesmithError("architecture-unsupported", `unknown activation '${name}' in the model's config`, {
    fix: `supported: ${Object.keys(activations).join(", ")}`,
  });
}
