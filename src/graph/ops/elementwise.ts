import { op } from "../create.js";
import type { Value } from "../types.js";
import { binary, lift, type Operand, unary } from "./base.js";

export const add = binary("Add");
export const sub = binary("Sub");
export const mul = binary("Mul");
export const div = binary("Div");
export const pow = binary("Pow");
export const max = binary("Max");
export const min = binary("Min");
export const equal = binary("Equal");
export const less = binary("Less");
export const lessOrEqual = binary("LessOrEqual");
export const greater = binary("Greater");
export const greaterOrEqual = binary("GreaterOrEqual");
export const and = binary("And");
export const or = binary("Or");

export const neg = unary("Neg");
export const abs = unary("Abs");
export const exp = unary("Exp");
export const log = unary("Log");
export const sqrt = unary("Sqrt");
export const reciprocal = unary("Reciprocal");
export const sin = unary("Sin");
export const cos = unary("Cos");
export const tanh = unary("Tanh");
export const erf = unary("Erf");
export const sigmoid = unary("Sigmoid");
export const relu = unary("Relu");
export const sign = unary("Sign");
export const not = unary("Not");
export const softplus = unary("Softplus");

/** x². */
export const square = (x: Value): Value => op("Mul", [x, x]);
/** x·sigmoid(x). */
export const silu = (x: Value): Value => mul(x, sigmoid(x));
/** Gaussian error linear unit, exact or with the tanh approximation (one kernel on every backend). */
export const gelu = (x: Value, approximate: "none" | "tanh" = "none"): Value =>
  op("Gelu", [x], { approximate: { s: approximate } });

export function where(condition: Value, a: Operand, b: Operand): Value {
  const like = typeof a !== "number" ? a : (b as Value);
  return op("Where", [condition, lift(a, like), lift(b, like)]);
}

export function clip(x: Value, low?: Operand, high?: Operand): Value {
  return op("Clip", [
    x,
    low === undefined ? undefined : lift(low, x),
    high === undefined ? undefined : lift(high, x),
  ]);
}
