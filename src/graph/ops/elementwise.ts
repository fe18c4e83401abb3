import { op } from "../create.js";
import type { Value } from "../types.js";
import { binary, lift, type Operand, unary } from "./base.js";

/** a + b, broadcast as ONNX does; one side of every binary operator here may be a plain number. */
export const add = binary("Add");
/** a − b. */
export const sub = binary("Sub");
/** a · b. */
export const mul = binary("Mul");
/** a / b. */
export const div = binary("Div");
/** a to the power b. */
export const pow = binary("Pow");
/** The larger of a and b. */
export const max = binary("Max");
/** The smaller of a and b. */
export const min = binary("Min");
/** a = b, as bool. */
export const equal = binary("Equal");
/** a < b, as bool. */
export const less = binary("Less");
/** a ≤ b, as bool. */
export const lessOrEqual = binary("LessOrEqual");
/** a > b, as bool. */
export const greater = binary("Greater");
/** a ≥ b, as bool. */
export const greaterOrEqual = binary("GreaterOrEqual");
/** Both of two bools. */
export const and = binary("And");
/** Either of two bools. */
export const or = binary("Or");

/** −x. */
export const neg = unary("Neg");
/** |x|. */
export const abs = unary("Abs");
/** eˣ. */
export const exp = unary("Exp");
/** Natural logarithm. */
export const log = unary("Log");
/** √x. */
export const sqrt = unary("Sqrt");
/** 1/x. */
export const reciprocal = unary("Reciprocal");
/** Sine, of radians. */
export const sin = unary("Sin");
/** Cosine, of radians. */
export const cos = unary("Cos");
/** Hyperbolic tangent. */
export const tanh = unary("Tanh");
/** Gauss error function. */
export const erf = unary("Erf");
/** 1 / (1 + e⁻ˣ). */
export const sigmoid = unary("Sigmoid");
/** max(x, 0). */
export const relu = unary("Relu");
/** −1, 0 or 1; no gradient flows through it. */
export const sign = unary("Sign");
/** The opposite of a bool. */
export const not = unary("Not");
/** log(1 + eˣ). */
export const softplus = unary("Softplus");

/** x². */
export const square = (x: Value): Value => op("Mul", [x, x]);
/** x·sigmoid(x). */
export const silu = (x: Value): Value => mul(x, sigmoid(x));
/** Gaussian error linear unit, exact or with the tanh approximation (one kernel on every backend). */
export const gelu = (x: Value, approximate: "none" | "tanh" = "none"): Value =>
  op("Gelu", [x], { approximate: { s: approximate } });

/**
 * `a` where the bool `condition` holds, `b` elsewhere; all three broadcast, and one of a and b may be a plain number.
 */
export function where(condition: Value, a: Operand, b: Operand): Value {
  const like = typeof a !== "number" ? a : (b as Value);
  return op("Where", [condition, lift(a, like), lift(b, like)]);
}

/** x limited to `[low, high]`; a bound left out does not limit. */
export function clip(x: Value, low?: Operand, high?: Operand): Value {
  return op("Clip", [
    x,
    low === undefined ? undefined : lift(low, x),
    high === undefined ? undefined : lift(high, x),
  ]);
}
