import { type Node, ops, type Value } from "../graph/index.js";

const FLOATS = new Set(["float32", "float64", "float16", "bfloat16"]);

/** Whether a value is of a type that can be differentiated. */
export const isReal = (value: Value): boolean => FLOATS.has(value.dtype);

/** Operators that give codes of floats, or integers computed from such codes; gradients go straight through. */
const QUANTISES =
  /^(com\.microsoft\.)?(QuantizeLinear|DynamicQuantizeLinear|MatMulInteger|ConvInteger|QLinear\w+|QGemm)$/;

/** Operators that only move codes, or pick among them; their rules are written for floats. */
const MOVES = new Set(
  "Identity Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Gather Expand Tile Pad DepthToSpace SpaceToDepth Resize MaxPool Cast".split(
    " ",
  ),
);

const keyOf = (node: Node) => (node.domain ? `${node.domain}.${node.op}` : node.op);

/**
 * The integer outputs of a node that carry a gradient, counted per unit of the integer: what quantises floats does, and
 * what moves such codes. Casting a float to an integer does not.
 */
export function straightThrough(node: Node, active: ReadonlySet<Value>): readonly Value[] {
  const integer = node.outputs.filter((value) => !isReal(value));
  if (QUANTISES.test(keyOf(node))) return integer.slice(0, 1);
  return movesCodes(node, active)
    ? integer.filter(({ dtype }) => dtype !== "int64" || node.op !== "MaxPool")
    : [];
}

/** Whether a node passes codes on. */
export const movesCodes = (node: Node, active: ReadonlySet<Value>): boolean =>
  node.domain === "" &&
  MOVES.has(node.op) &&
  node.inputs.some((value) => value !== undefined && active.has(value) && !isReal(value));

/** Codes as floats, for rules that read their dtype (or, where the backend cannot, their order). */
export const asFloats = (values: readonly (Value | undefined)[], active: ReadonlySet<Value>): Value[] =>
  values.map((value) =>
    value && active.has(value) && !isReal(value) ? ops.cast(value, "float32") : value,
  ) as Value[];
