import type { Node, Value } from "../graph/index.js";
import { storedOf } from "./stored.js";

/** A tensor of the model where a node reads it. */
export interface Operand {
  /** Which operand of the node. */
  readonly index: number;
  /** What it is to the module: `weight`, `bias`, `running_mean`; for others the end of its name. */
  readonly leaf: string;
  /** As the node reads it, float32. */
  readonly value: Value;
  /** As it is stored, named. */
  readonly stored: Value;
}

const AFFINE = ["", "weight", "bias"];
const RECURRENT = ["", "weight_ih", "weight_hh", "bias"];

/** What operands are to a module, by operator. */
const ROLES: Readonly<Record<string, readonly string[]>> = {
  Conv: AFFINE,
  ConvTranspose: AFFINE,
  Gemm: AFFINE,
  MatMul: ["", "weight"],
  Gather: ["weight"],
  PRelu: ["", "weight"],
  LayerNormalization: AFFINE,
  GroupNormalization: AFFINE,
  InstanceNormalization: AFFINE,
  RMSNormalization: AFFINE,
  SimplifiedLayerNormalization: AFFINE,
  BatchNormalization: [...AFFINE, "running_mean", "running_var"],
  "com.microsoft.SkipLayerNormalization": ["", "", "weight", "bias"],
  "com.microsoft.SkipSimplifiedLayerNormalization": ["", "", "weight"],
  "com.microsoft.GroupNorm": AFFINE,
  "com.microsoft.MatMulNBits": ["", "weight", "", "", "", "bias"],
  "com.microsoft.MatMulBnb4": ["", "weight"],
  LSTM: RECURRENT,
  GRU: RECURRENT,
  RNN: RECURRENT,
};

export const operatorOf = ({ op, domain }: Pick<Node, "op" | "domain">): string =>
  domain === "" ? op : `${domain}.${op}`;

/** Operators that normalise, with a scale and perhaps a shift. */
export const isNorm = (node: Node): boolean => /Norm(alization)?$/.test(node.op) && node.inputs.length > 1;

/** Whether a tensor that a node reads is the scale or the shift of a norm, also of one that is written out. */
export const isOfNorm = (node: Node, leaf: string): boolean =>
  isNorm(node) || ((node.op === "Mul" || node.op === "Add") && (leaf === "weight" || leaf === "bias"));

export const isRecurrent = ({ op, domain }: Node): boolean =>
  domain === "" && (op === "LSTM" || op === "GRU" || op === "RNN");

const endOf = (name: string) => name.slice(name.lastIndexOf(".") + 1);

/** The float32 tensors of the model that a node reads, each with its part in the module. */
export function operandsOf(node: Node): Operand[] {
  const operands: Operand[] = [];
  // Scales of NormalFloat are parts of a weight, no tensors of their own.
  if (operatorOf(node) === "tunesmith.MatMulNormalFloat") return operands;
  const roles = ROLES[operatorOf(node)];
  for (const [index, value] of node.inputs.entries()) {
    if (value?.dtype !== "float32") continue;
    const stored = storedOf(value);
    if (stored?.name === undefined) continue;
    const leaf = roles?.[index] || affineRole(node, value) || endOf(stored.name);
    operands.push({ index, leaf, value, stored });
  }
  return operands;
}

/** The scale and the shift of a norm that is written out: products and sums with one number per feature. */
function affineRole({ op, domain, outputs }: Node, value: Value): string | undefined {
  if (domain !== "" || (op !== "Mul" && op !== "Add") || !isVector(value)) return undefined;
  const named = /(^|[._/])(weight|bias)$/.exec(storedOf(value)?.name ?? "")?.[2];
  if (named) return named;
  const [result] = outputs;
  if (op === "Mul") return result && isNormalised(result) ? "weight" : undefined;
  return result && isNormalised(result) ? "bias" : undefined;
}

/** One number per feature, `[C]` or `[C, 1, 1]`. */
export const isVector = ({ shape }: Value): boolean =>
  shape.filter((dim) => dim !== 1).length === 1 && shape.every((dim) => typeof dim === "number");

/**
 * Whether a value is x / sqrt(mean(...)), times and plus at most one tensor of the model each: the end of a norm that an
 * exporter wrote out.
 */
export function isNormalised(value: Value): boolean {
  let at: Value | undefined = value;
  for (let steps = 0; at !== undefined && steps < 3; steps++) {
    if (at.source.kind !== "node") return false;
    const { node }: { node: Node } = at.source;
    if (dividesByDeviation(node)) return true;
    if (node.op !== "Mul" && node.op !== "Add" && node.op !== "Cast") return false;
    const moving: (Value | undefined)[] = node.inputs.filter((input) => input && !storedOf(input));
    at = moving.length === 1 ? moving[0] : undefined;
  }
  return false;
}

/** x / sqrt(...), or x times the reciprocal of that, where a mean is below the root. */
function dividesByDeviation({ op, inputs }: Node): boolean {
  if (op !== "Div" && op !== "Mul") return false;
  return inputs.some((input) => {
    if (input?.source.kind !== "node") return false;
    let { node } = input.source;
    if (op === "Mul") {
      const below = node.op === "Reciprocal" || node.op === "Div" ? node.inputs.at(-1) : undefined;
      if (below?.source.kind !== "node") return false;
      node = below.source.node;
    }
    return node.op === "Sqrt" && reachesMean(node.inputs[0]);
  });
}

function reachesMean(value: Value | undefined, steps = 3): boolean {
  if (value?.source.kind !== "node" || steps === 0) return false;
  const { node } = value.source;
  return node.op === "ReduceMean" || node.inputs.some((input) => reachesMean(input, steps - 1));
}
