import { ops, type Value } from "../../graph/index.js";
import type { VjpContext, VjpRule, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";

/** A rule of one operand: d·f'(x), written from x and y. */
const pointwise =
  (derivative: (x: Value, y: Value, context: VjpContext) => Value): VjpRule =>
  (context) => {
    const [x, y] = [context.inputs[0] as Value, context.outputs[0] as Value];
    return [ops.mul(context.dy, derivative(x, y, context))];
  };

/** A rule of two broadcast operands, each side built only when wanted. */
const pairwise =
  (
    left: (dy: Value, a: Value, b: Value, y: Value) => Value,
    right: (dy: Value, a: Value, b: Value, y: Value) => Value,
  ): VjpRule =>
  ({ dy, inputs, outputs, needs }) => {
    const [a, b, y] = [inputs[0] as Value, inputs[1] as Value, outputs[0] as Value];
    return [
      needs(0) ? unbroadcast(left(dy, a, b, y), a.shape, a) : undefined,
      needs(1) ? unbroadcast(right(dy, a, b, y), b.shape, b) : undefined,
    ];
  };

const one = (x: Value) => ops.scalar(1, x.dtype);
const mask = (condition: Value, like: Value) => ops.cast(condition, like.dtype);

const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const GELU_CUBIC = 0.044715;

/** Φ(x) + x·φ(x), or the derivative of the tanh approximation; recomputed from x so that only x stays alive. */
function geluDerivative(x: Value, approximate: string): Value {
  if (approximate === "tanh") {
    const x2 = ops.square(x);
    const t = ops.tanh(ops.mul(x, ops.add(ops.mul(x2, SQRT_2_OVER_PI * GELU_CUBIC), SQRT_2_OVER_PI)));
    const du = ops.add(ops.mul(x2, 3 * SQRT_2_OVER_PI * GELU_CUBIC), SQRT_2_OVER_PI);
    const slope = ops.mul(ops.mul(ops.sub(1, ops.square(t)), du), x);
    return ops.mul(ops.add(ops.add(t, 1), slope), 0.5);
  }
  const cdf = ops.mul(ops.add(ops.erf(ops.mul(x, Math.SQRT1_2)), 1), 0.5);
  const density = ops.mul(ops.exp(ops.mul(ops.square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return ops.add(cdf, ops.mul(x, density));
}

export const elementwise: VjpTable = {
  Identity: ({ dy }) => [dy],
  Neg: ({ dy }) => [ops.neg(dy)],
  Add: pairwise((dy) => dy, (dy) => dy),
  Sub: pairwise((dy) => dy, (dy) => ops.neg(dy)),
  Mul: pairwise((dy, _, b) => ops.mul(dy, b), (dy, a) => ops.mul(dy, a)),
  Div: pairwise((dy, _, b) => ops.div(dy, b), (dy, _a, b, y) => ops.neg(ops.mul(ops.div(dy, b), y))),
  Pow: pairwise(
    (dy, x, p) => ops.mul(dy, ops.mul(ops.cast(p, x.dtype), ops.pow(x, ops.sub(p, 1)))),
    (dy, x, _p, y) => ops.mul(dy, ops.mul(y, ops.log(x))),
  ),
  Abs: pointwise((x) => ops.sign(x)),
  Exp: pointwise((_, y) => y),
  Log: ({ dy, inputs }) => [ops.div(dy, inputs[0] as Value)],
  Sqrt: ({ dy, outputs }) => [ops.div(ops.mul(dy, 0.5), outputs[0] as Value)],
  Reciprocal: pointwise((_, y) => ops.neg(ops.square(y))),
  Sin: pointwise((x) => ops.cos(x)),
  Cos: pointwise((x) => ops.neg(ops.sin(x))),
  Tanh: pointwise((_, y) => ops.sub(one(y), ops.square(y))),
  Sigmoid: pointwise((_, y) => ops.mul(y, ops.sub(one(y), y))),
  Relu: pointwise((x) => mask(ops.greater(x, 0), x)),
  Erf: pointwise((x) => ops.mul(ops.exp(ops.neg(ops.square(x))), TWO_OVER_SQRT_PI)),
  Softplus: pointwise((x) => ops.sigmoid(x)),
  Gelu: pointwise((x, _, { node }) => {
    const attr = node.attrs.approximate;
    return geluDerivative(x, attr && "s" in attr ? attr.s : "none");
  }),
  Where: ({ dy, inputs, needs }) => {
    const [condition, a, b] = inputs as [Value, Value, Value];
    return [
      undefined,
      needs(1) ? unbroadcast(ops.where(condition, dy, 0), a.shape, a) : undefined,
      needs(2) ? unbroadcast(ops.where(condition, 0, dy), b.shape, b) : undefined,
    ];
  },
  Cast: ({ dy, inputs }) => [ops.cast(dy, (inputs[0] as Value).dtype)],
};
