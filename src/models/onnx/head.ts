import { makeNode, type Node, reach, type Value } from "../../graph/index.js";

/** The output head: what turns hidden states into logits, for any number of rows. */
export interface Head {
  /** Operand of the product with the output matrix. */
  readonly hidden: Value;
  /** Logits `[rows, vocab]` of hidden states `[rows, hidden]`. */
  apply(rows: Value): Value;
}

const PRODUCTS = new Set(["MatMul", "Gemm", "FusedMatMul", "MatMulNBits"]);
const SHAPE_ONLY = new Set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"]);
const ELEMENTWISE = new Set(["Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Neg", "Clip"]);

/**
 * Finds the product with the output matrix, below what may follow it (a bias, a scale, a soft cap). Undefined when the
 * logits are made in another way.
 */
export function findHead(logits: Value): Head | undefined {
  const above: { readonly node: Node; readonly operand: number }[] = [];
  let value = logits;
  for (;;) {
    if (value.source.kind !== "node") return undefined;
    const { node } = value.source;
    const reshapes = SHAPE_ONLY.has(node.op);
    const operand = reshapes ? 0 : node.inputs.findIndex((input) => input && !isFixed(input));
    const others = node.inputs.filter((input, at) => !reshapes && at !== operand && input && !isFixed(input));
    const next = node.inputs[operand];
    if (!next || others.length > 0) return undefined;
    if (PRODUCTS.has(node.op)) return operand === 0 ? headOf(node, next, above) : undefined;
    if (!reshapes && !ELEMENTWISE.has(node.op)) return undefined;
    above.push({ node, operand });
    value = next;
  }
}

/** Whether a value depends on no input. */
const isFixed = (value: Value): boolean =>
  reach([value]).values.every(({ source }) => source.kind !== "input");

function headOf(product: Node, hidden: Value, above: readonly { node: Node; operand: number }[]): Head {
  const again = (node: Node, operand: number, x: Value): Value => {
    const inputs = node.inputs.map((input, at) => (at === operand ? x : input));
    const { domain, scope, name } = node;
    return makeNode(node.op, inputs, node.attrs, { domain, scope, name }).outputs[0] as Value;
  };
  return {
    hidden,
    apply(rows) {
      let x = again(product, 0, rows);
      for (const { node, operand } of above.toReversed()) {
        // Rows stay rows: only the vocabulary axis is left to act on.
        if (!SHAPE_ONLY.has(node.op)) x = again(node, operand, x);
      }
      return x;
    },
  };
}
