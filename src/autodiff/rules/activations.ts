import { op, ops, type Value } from "../../graph/index.js";
import { floatAttr } from "../../graph/infer/types.js";
import type { VjpContext, VjpRule, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";
import { mask, one, pointwise } from "./combinators.js";

const alphaOf = ({ node }: VjpContext, fallback: number) => floatAttr(node.attrs, "alpha", fallback);

/** The derivative is 1 above zero and something else below. */
const rectifier = (
  below: (y: Value, context: VjpContext) => Value,
  above?: (context: VjpContext) => number,
): VjpRule =>
  pointwise((x, y, context) => {
    const slope = above ? ops.scalar(above(context), x.dtype) : one(x);
    return ops.where(ops.greater(x, 0), slope, below(y, context));
  });

const gammaOf = ({ node }: VjpContext) => floatAttr(node.attrs, "gamma", 1.0507010221481323);

const between = (x: Value, low: number, high: number): Value =>
  mask(ops.and(ops.greater(x, low), ops.less(x, high)), x);

export const activations: VjpTable = {
  Relu: pointwise((x) => mask(ops.greater(x, 0), x)),
  LeakyRelu: rectifier((y, context) => ops.scalar(alphaOf(context, 0.01), y.dtype)),
  Elu: rectifier((y, context) => ops.add(y, alphaOf(context, 1))),
  Selu: rectifier(
    (y, context) => ops.add(y, alphaOf(context, 1.6732631921768188) * gammaOf(context)),
    gammaOf,
  ),
  Celu: rectifier((y, context) => ops.add(ops.div(y, alphaOf(context, 1)), 1)),
  ThresholdedRelu: pointwise((x, _, context) => mask(ops.greater(x, alphaOf(context, 1)), x)),
  HardSigmoid: pointwise((_, y, context) => ops.mul(between(y, 0, 1), alphaOf(context, 0.2))),
  HardSwish: pointwise((x) => {
    const ramp = ops.mul(between(x, -3, 3), ops.add(ops.div(x, 3), 0.5));
    return ops.add(ramp, mask(ops.greaterOrEqual(x, 3), x));
  }),
  Softplus: pointwise((x) => ops.sigmoid(x)),
  Shrink: pointwise((x, _, { node }) =>
    mask(ops.greater(ops.abs(x), floatAttr(node.attrs, "lambd", 0.5)), x),
  ),
  /** y = x/(1+|x|), so 1-|y| = 1/(1+|x|). */
  Softsign: pointwise((_, y) => ops.square(ops.sub(1, ops.abs(y)))),
  Mish: pointwise((x) => {
    const t = ops.tanh(op("Softplus", [x]));
    return ops.add(t, ops.mul(ops.mul(x, ops.sub(1, ops.square(t))), ops.sigmoid(x)));
  }),
  PRelu: ({ dy, inputs, needs }) => {
    const [x, slope] = inputs as [Value, Value];
    const positive = ops.greater(x, 0);
    return [
      needs(0) ? ops.where(positive, dy, ops.mul(dy, slope)) : undefined,
      needs(1) ? unbroadcast(ops.where(positive, 0, ops.mul(dy, x)), slope.shape, slope) : undefined,
    ];
  },
};
