import type { Dtype } from "../../tensor/index.js";
import { dtypeFromOnnx } from "../../tensor/index.js";
import { broadcastShapes } from "../dims.js";
import type { Shape } from "../types.js";
import { type InferContext, type InferRule, intAttr, like, mismatch, need, where } from "./types.js";

const unary: InferRule = (context) => [like(need(context, 0))];

function broadcastAll(context: InferContext, from = 0): Shape {
  return context.inputs.slice(from).reduce<Shape>((shape, value) => {
    return value ? broadcastShapes(shape, value.shape, where(context)) : shape;
  }, []);
}

function sameDtype(context: InferContext, from = 0): Dtype {
  const dtype = need(context, from).dtype;
  if (context.inputs.slice(from).some((value) => value && value.dtype !== dtype)) {
    throw mismatch(context, "operands have different dtypes");
  }
  return dtype;
}

const nary: InferRule = (context) => [{ dtype: sameDtype(context), shape: broadcastAll(context) }];
const comparison: InferRule = (context) => {
  sameDtype(context);
  return [{ dtype: "bool", shape: broadcastAll(context) }];
};
const toBool: InferRule = (context) => [{ dtype: "bool", shape: need(context, 0).shape }];

const UNARY =
  "Identity Neg Abs Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Erf Tanh Sigmoid Relu LeakyRelu Elu Selu Celu ThresholdedRelu Softplus Softsign HardSigmoid HardSwish Mish Gelu Swish Sign Floor Ceil Round Clip Trilu CumSum Not BitwiseNot Hardmax Softmax LogSoftmax";
const NARY = "Add Sub Mul Div Mod Max Min Sum Mean And Or Xor BitwiseAnd BitwiseOr BitwiseXor";
const COMPARE = "Equal Less LessOrEqual Greater GreaterOrEqual";

const each = (names: string, rule: InferRule): Record<string, InferRule> =>
  Object.fromEntries(names.split(" ").map((name) => [name, rule]));

export const elementwise: Record<string, InferRule> = {
  ...each(UNARY, unary),
  ...each(NARY, nary),
  ...each(COMPARE, comparison),
  Pow: (context) => [{ dtype: need(context, 0).dtype, shape: broadcastAll(context) }],
  PRelu: (context) => [like(need(context, 0))],
  IsNaN: toBool,
  IsInf: toBool,
  Where: (context) => [{ dtype: sameDtype(context, 1), shape: broadcastAll(context) }],
  Cast: (context) => [
    { dtype: dtypeFromOnnx(intAttr(context.attrs, "to", 0)), shape: need(context, 0).shape },
  ],
  CastLike: (context) => [{ dtype: need(context, 1).dtype, shape: need(context, 0).shape }],
  "com.microsoft.QuickGelu": unary,
  "com.microsoft.FastGelu": unary,
  "com.microsoft.BiasGelu": unary,
  "com.microsoft.Gelu": unary,
  "tunesmith.StopGradient": unary,
  "tunesmith.CustomVjp": unary,
  "tunesmith.Keep": unary,
};
