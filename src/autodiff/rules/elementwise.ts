import { constantScalar } from "../../graph/constants.js";
import { op, ops, type Value } from "../../graph/index.js";
import { stringAttr } from "../../graph/infer/types.js";
import type { VjpContext, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";
import { each, mask, one, pairwise, pointwise } from "./combinators.js";

const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const GELU_CUBIC = 0.044715;

/** Φ(x) + x·φ(x), or the derivative of the tanh approximation; recomputed from x so that only x stays alive. */
function geluDerivative(x: Value, approximate: string): Value {
  if (approximate === "tanh") {
    // With s = 2u the approximation is x·h, h = sigmoid(s), and x·s' = 3s − 4·sqrt(2/π)·x.
    const inner = ops.add(ops.mul(ops.square(x), 2 * SQRT_2_OVER_PI * GELU_CUBIC), 2 * SQRT_2_OVER_PI);
    const s = ops.mul(inner, x);
    const h = ops.sigmoid(s);
    const slope = ops.sub(ops.mul(s, 3), ops.mul(x, 4 * SQRT_2_OVER_PI));
    return ops.add(ops.mul(ops.sub(h, ops.square(h)), slope), h);
  }
  const cdf = ops.mul(ops.add(ops.erf(ops.mul(x, Math.SQRT1_2)), 1), 0.5);
  const density = ops.mul(ops.exp(ops.mul(ops.square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return ops.add(cdf, ops.mul(x, density));
}

/** d·p·x^(p-1). A constant p avoids Pow where it can (slow, and NaN for negative x with a fractional exponent). */
function powBase(dy: Value, x: Value, exponent: Value, y: Value): Value {
  switch (constantScalar(exponent)) {
    case 0:
      return ops.mul(dy, 0);
    case 0.5:
      return ops.div(ops.mul(dy, 0.5), y);
    case 1:
      return dy;
    case 2:
      return ops.mul(dy, ops.mul(x, 2));
    case 3:
      return ops.mul(dy, ops.mul(ops.square(x), 3));
    default: {
      const p = ops.cast(exponent, x.dtype);
      const slope = ops.mul(p, ops.pow(x, ops.sub(p, 1)));
      // 0·x^-1 is 0, also at x = 0.
      const safe = constantScalar(exponent) === undefined ? ops.where(ops.equal(p, 0), 0, slope) : slope;
      return ops.mul(dy, safe);
    }
  }
}

/** The gradient of a maximum or minimum goes to the operands that attain it; ties share it evenly. */
function evenShare({ dy, inputs, outputs }: VjpContext, index: number): Value {
  const y = outputs[0] as Value;
  const hits = inputs.map((x) => mask(ops.equal(x, y), y));
  const attained = hits.reduce((a, b) => ops.add(a, b));
  return ops.mul(dy, ops.div(hits[index] as Value, attained));
}

export const elementwise: VjpTable = {
  Identity: ({ dy }) => [dy],
  Neg: ({ dy }) => [ops.neg(dy)],
  Add: pairwise(
    (dy) => dy,
    (dy) => dy,
  ),
  Sub: pairwise(
    (dy) => dy,
    (dy) => ops.neg(dy),
  ),
  Mul: pairwise(
    (dy, _, b) => ops.mul(dy, b),
    (dy, a) => ops.mul(dy, a),
  ),
  Div: pairwise(
    (dy, _, b) => ops.div(dy, b),
    (dy, _a, b, y) => ops.neg(ops.mul(ops.div(dy, b), y)),
  ),
  Pow: pairwise(powBase, (dy, x, _p, y) =>
    ops.mul(dy, ops.mul(y, ops.log(ops.where(ops.equal(x, 0), 1, x)))),
  ),
  /** y = a - b·q with a whole q; floats need fmod. */
  Mod: pairwise(
    (dy) => dy,
    (dy, a, b, y) => ops.mul(dy, op("Round", [ops.div(ops.sub(y, a), b)])),
  ),
  Sum: each(({ dy }) => dy),
  Mean: each(({ dy, inputs }) => ops.div(dy, inputs.length)),
  Max: each(evenShare),
  Min: each(evenShare),
  Clip: ({ dy, inputs, needs }) => {
    const [x, low, high] = inputs as [Value, Value | undefined, Value | undefined];
    const [under, over] = [low && ops.less(x, low), high && ops.greater(x, high)];
    const outside = under && over ? ops.or(under, over) : (under ?? over);
    const held = (where: Value | undefined) =>
      where && ops.reshape(ops.reduceSum(ops.where(where, dy, 0)), []);
    return [
      needs(0) ? (outside ? ops.where(outside, 0, dy) : dy) : undefined,
      needs(1) ? held(under && over ? ops.and(under, ops.not(over)) : under) : undefined,
      needs(2) ? held(over) : undefined,
    ];
  },
  Abs: pointwise((x) => ops.sign(x)),
  Exp: pointwise((_, y) => y),
  Log: ({ dy, inputs }) => [ops.div(dy, inputs[0] as Value)],
  Sqrt: ({ dy, outputs }) => [ops.div(ops.mul(dy, 0.5), outputs[0] as Value)],
  Reciprocal: pointwise((_, y) => ops.neg(ops.square(y))),
  Sin: pointwise((x) => ops.cos(x)),
  Cos: pointwise((x) => ops.neg(ops.sin(x))),
  Tan: pointwise((_, y) => ops.add(ops.square(y), 1)),
  Asin: pointwise((x) => ops.reciprocal(ops.sqrt(ops.sub(1, ops.square(x))))),
  Acos: pointwise((x) => ops.neg(ops.reciprocal(ops.sqrt(ops.sub(1, ops.square(x)))))),
  Atan: pointwise((x) => ops.reciprocal(ops.add(ops.square(x), 1))),
  Sinh: pointwise((x) => op("Cosh", [x])),
  Cosh: pointwise((x) => op("Sinh", [x])),
  Asinh: pointwise((x) => ops.reciprocal(ops.sqrt(ops.add(ops.square(x), 1)))),
  Acosh: pointwise((x) => ops.reciprocal(ops.sqrt(ops.sub(ops.square(x), 1)))),
  Atanh: pointwise((x) => ops.reciprocal(ops.sub(1, ops.square(x)))),
  Tanh: pointwise((_, y) => ops.sub(one(y), ops.square(y))),
  Sigmoid: pointwise((_, y) => ops.mul(y, ops.sub(one(y), y))),
  Erf: pointwise((x) => ops.mul(ops.exp(ops.neg(ops.square(x))), TWO_OVER_SQRT_PI)),
  Gelu: pointwise((x, _, { node }) => geluDerivative(x, stringAttr(node.attrs, "approximate", "none"))),
  Where: ({ dy, inputs, needs }) => {
    const [condition, a, b] = inputs as [Value, Value, Value];
    return [
      undefined,
      needs(1) ? unbroadcast(ops.where(condition, dy, 0), a.shape, a) : undefined,
      needs(2) ? unbroadcast(ops.where(condition, 0, dy), b.shape, b) : undefined,
    ];
  },
  Cast: ({ dy, inputs }) => [ops.cast(dy, (inputs[0] as Value).dtype)],
  CastLike: ({ dy, inputs }) => [ops.cast(dy, (inputs[0] as Value).dtype)],
};
