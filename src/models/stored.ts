import { makeGraph, type Node, type Value } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import { readTensor, type Tensor } from "../tensor/index.js";

/** Operators that show a stored tensor in another form, and nothing more. */
const FORMS = new Set([
  "Cast",
  "Transpose",
  "Reshape",
  "Squeeze",
  "Unsqueeze",
  "Flatten",
  "Identity",
  "DequantizeLinear",
]);

const known = new WeakMap<Value, { readonly stored: Value | undefined }>();

/**
 * The constant that a value is, or is another form of: half-precision numbers behind a Cast, codes behind a
 * DequantizeLinear, a turned or reshaped matrix. Undefined for what depends on inputs.
 */
export function storedOf(value: Value): Value | undefined {
  if (value.source.kind === "constant") return value;
  if (value.source.kind === "input") return undefined;
  const found = known.get(value);
  if (found) return found.stored;
  const stored = storedBehind(value.source.node);
  known.set(value, { stored });
  return stored;
}

function storedBehind({ op, domain, inputs }: Node): Value | undefined {
  if (domain !== "" || !FORMS.has(op)) return undefined;
  const all = inputs.map((input) => input && storedOf(input));
  return inputs.every((input, at) => input === undefined || all[at]) ? all[0] : undefined;
}

/** Whether a node only gives stored tensors another form. */
export const isForm = (node: Node): boolean => {
  const [first] = node.outputs;
  return first !== undefined && storedOf(first) !== undefined;
};

/** The numbers of a value that depends on no input. */
export async function frozenTensor(value: Value): Promise<Tensor> {
  if (value.source.kind === "constant") return readTensor(value.source.data);
  const { frozen } = await evaluate(makeGraph("frozen", [], [["frozen", value]]), {});
  return frozen as Tensor;
}
