import { isFloat } from "../../tensor/index.js";
import { makeNode, op, outputOf } from "../create.js";
import type { Node, Value } from "../types.js";
import { cast, ints } from "./base.js";
import { add } from "./elementwise.js";
import { reduceSum } from "./reduce.js";
import { reshape, slice } from "./shape.js";

/** The same value, through which no gradient flows. */
export const stopGradient = (x: Value): Value => op("StopGradient", [x], {}, { domain: "tunesmith" });

/**
 * The same value, marked as one that recomputation should keep: small for what it costs to compute it again. The mark
 * survives rewriting.
 */
export const keep = (x: Value): Value => op("Keep", [x], {}, { domain: "tunesmith" });

/** Gradients for `wrt`, given the marker's inputs and the gradient of its output; must only build graph code. */
export type CustomVjp = (inputs: CustomInputs, dy: Value) => readonly (Value | undefined)[];
export interface CustomInputs {
  readonly output: Value;
  readonly wrt: readonly Value[];
  readonly saved: readonly Value[];
}

/**
 * Gives `output` a derivative of our own: backward calls `vjp` for `wrt` and does not look into how `output` was
 * computed. `saved` are values the rule reads (so that rewrites see and remap them). The marker vanishes before
 * execution. Because the rule is graph code, second derivatives go through it.
 *
 * @example
 * ```ts
 * import { input, ops } from "tunesmith/graph";
 * const x = input("x", "float32", [4]);
 * const y = ops.customVjp(ops.sign(x), [x], [], (_, dy) => [dy]); // straight-through sign
 * console.log(y.shape);
 * ```
 */
export function customVjp(
  output: Value,
  wrt: readonly Value[],
  saved: readonly Value[],
  vjp: CustomVjp,
): Value {
  const attrs = { vjp: { fn: vjp }, wrt: { i: wrt.length } };
  return outputOf(makeNode("CustomVjp", [output, ...wrt, ...saved], attrs, { domain: "tunesmith" }), 0);
}

/** Splits a CustomVjp node's inputs back into its parts. */
export function customParts(node: Node): CustomInputs & { readonly vjp: CustomVjp } {
  const [count, fn] = [node.attrs.wrt, node.attrs.vjp];
  const wrt = count && "i" in count ? Number(count.i) : 0;
  const values = node.inputs as readonly Value[];
  return {
    output: values[0] as Value,
    wrt: values.slice(1, 1 + wrt),
    saved: values.slice(1 + wrt),
    vjp: (fn && "fn" in fn ? fn.fn : undefined) as CustomVjp,
  };
}

/**
 * `x`, scheduled after `values`: adds the sum of an empty slice of each, which is exactly 0. ONNX Runtime orders nodes
 * by need, so recomputed blocks and loss chunks are hoisted and stay alive without such an edge.
 */
export function after(x: Value, ...values: Value[]): Value {
  return values.reduce((result, value) => {
    const flat = value.shape.length === 0 ? reshape(value, [1]) : value;
    const zero = reduceSum(slice(flat, 0, 0, 0), undefined, false);
    return isFloat(result.dtype) ? add(result, zero) : fromStart(result, zero);
  }, x);
}

/** All of `x` from the position `zero` on: for dtypes that have no sum. */
function fromStart(x: Value, zero: Value): Value {
  const start = reshape(cast(zero, "int64"), [1]);
  const rows = op("Slice", [x, start, ints([2 ** 31 - 1]), ints([0])]);
  return reshape(rows, x.shape);
}
