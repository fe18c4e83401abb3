import { type Dtype, dtypeFromOnnx } from "../../tensor/index.js";
import { broadcastShapes, dimAdd, dimMul } from "../dims.js";
import type { Dim, Shape, Value } from "../types.js";
import { windowOf } from "../window.js";
import { matmulShape } from "./linear.js";
import {
  axisAttr,
  type InferContext,
  type InferRule,
  intAttr,
  like,
  mismatch,
  need,
  where,
} from "./types.js";

const quantize: InferRule = (context) => {
  const code = intAttr(context.attrs, "output_dtype", 0);
  const dtype: Dtype = context.inputs[2]?.dtype ?? (code ? dtypeFromOnnx(code) : "uint8");
  return [{ dtype, shape: need(context, 0).shape }];
};

const dequantize: InferRule = (context) => [{ dtype: need(context, 1).dtype, shape: need(context, 0).shape }];

const dynamicQuantize: InferRule = (context) => [
  { dtype: "uint8", shape: need(context, 0).shape },
  { dtype: "float32", shape: [] },
  { dtype: "uint8", shape: [] },
];

/** A product of inputs `a` and `b`. */
const product =
  (a: number, b: number, dtypeOf: (context: InferContext) => Dtype): InferRule =>
  (context) => [
    { dtype: dtypeOf(context), shape: matmulShape(context, need(context, a).shape, need(context, b).shape) },
  ];

function convShape(context: InferContext, x: Value, w: Value): Shape {
  return channelsLast(context, x, (data) => {
    const { output } = windowOf({ ...context, inputs: [data, w] });
    return [data.shape[0] as Dim, w.shape[0] as Dim, ...output];
  });
}

/** A shape computed for `[N, C, ...space]`, of data whose channels may be last. */
function channelsLast(context: InferContext, x: Value, shapeOf: (x: Value) => Shape): Shape {
  if (intAttr(context.attrs, "channels_last", 0) === 0) return shapeOf(x);
  const [batch, ...rest] = x.shape as [Dim, ...Dim[]];
  const [n, c, ...space] = shapeOf({
    ...x,
    shape: [batch, rest.at(-1) as Dim, ...rest.slice(0, -1)],
  }) as Dim[];
  return [n as Dim, ...space, c as Dim];
}

/** A pool over codes. */
const qlinearPool =
  (shapeOf: (context: InferContext, x: Value) => Shape): InferRule =>
  (context) => {
    const x = need(context, 0);
    return [
      like(
        x,
        channelsLast(context, x, (data) => shapeOf(context, data)),
      ),
    ];
  };

/** A product of matrices of codes; float where no scale of the result is given. */
const qgemm: InferRule = (context) => {
  const [a, b] = [need(context, 0), need(context, 3)];
  const turned = ({ shape }: Value, name: string): Shape =>
    intAttr(context.attrs, name, 0) === 0 ? shape : shape.toReversed();
  const shape = matmulShape(context, turned(a, "transA"), turned(b, "transB"));
  return [context.inputs[7] ? like(a, shape) : { dtype: "float32", shape }];
};

/** Scale and zero point of the result, then values, scales and zero points. */
const qlinearConcat: InferRule = (context) => {
  const parts = context.inputs.slice(2).filter((_, at) => at % 3 === 0) as Value[];
  const first = need(context, 2);
  const axis = axisAttr(context, "axis", 1, first.shape.length);
  const total = parts.map((part) => part.shape[axis] as Dim).reduce((a, b) => dimAdd(a, b));
  return [
    like(
      first,
      first.shape.map((dim, at) => (at === axis ? total : dim)),
    ),
  ];
};

const qlinearWhere: InferRule = (context) => {
  const [condition, a, b] = [need(context, 0), need(context, 1), need(context, 4)];
  const shape = broadcastShapes(a.shape, b.shape, where(context));
  return [like(a, broadcastShapes(condition.shape, shape, where(context)))];
};

const convInteger: InferRule = (context) => [
  { dtype: "int32", shape: convShape(context, need(context, 0), need(context, 1)) },
];
const qlinearConv: InferRule = (context) => [
  { dtype: need(context, 7).dtype, shape: convShape(context, need(context, 0), need(context, 3)) },
];

/** [..., K] by K x N packed weights. */
const blockMatMul: InferRule = (context) => {
  const x = need(context, 0);
  const columns = intAttr(context.attrs, "N", 0);
  if (!columns) throw mismatch(context, "the attribute N is missing");
  return [like(x, [...x.shape.slice(0, -1), columns])];
};

/** Rows of a matrix whose last axis may hold two 4-bit values per byte. */
const gatherBlocks: InferRule = (context) => {
  const [data, indices, scales] = [need(context, 0), need(context, 1), need(context, 2)];
  const rank = data.shape.length;
  const raw = intAttr(context.attrs, "gather_axis", 0);
  const axis = raw < 0 ? raw + rank : raw;
  const packed = data.dtype === "uint8" && intAttr(context.attrs, "bits", 4) === 4;
  const full = data.shape.map((dim, at) => (packed && at === rank - 1 ? dimMul(dim, 2) : dim));
  return [
    { dtype: scales.dtype, shape: [...full.slice(0, axis), ...indices.shape, ...full.slice(axis + 1)] },
  ];
};

const qlinearBinary: InferRule = (context) => {
  const [a, b] = [need(context, 0), need(context, 3)];
  return [like(a, broadcastShapes(a.shape, b.shape, where(context)))];
};
const same: InferRule = (context) => [like(need(context, 0))];

export const quantized: Record<string, InferRule> = {
  QuantizeLinear: quantize,
  DequantizeLinear: dequantize,
  DynamicQuantizeLinear: dynamicQuantize,
  MatMulInteger: product(0, 1, () => "int32"),
  QLinearMatMul: product(0, 3, (context) => need(context, 7).dtype),
  ConvInteger: convInteger,
  QLinearConv: qlinearConv,
  "com.microsoft.QuantizeLinear": quantize,
  "com.microsoft.DequantizeLinear": dequantize,
  "com.microsoft.MatMulIntegerToFloat": product(0, 1, (context) => need(context, 2).dtype),
  "com.microsoft.DynamicQuantizeMatMul": product(0, 1, (context) => need(context, 0).dtype),
  "com.microsoft.MatMulNBits": blockMatMul,
  "com.microsoft.MatMulBnb4": blockMatMul,
  "tunesmith.MatMulNormalFloat": blockMatMul,
  "com.microsoft.MatMulFpQ4": blockMatMul,
  "com.microsoft.GatherBlockQuantized": gatherBlocks,
  "com.microsoft.QLinearAdd": qlinearBinary,
  "com.microsoft.QLinearMul": qlinearBinary,
  "com.microsoft.QLinearConv": qlinearConv,
  "com.microsoft.QGemm": qgemm,
  "com.microsoft.QLinearConcat": qlinearConcat,
  "com.microsoft.QLinearWhere": qlinearWhere,
  "com.microsoft.QLinearSoftmax": same,
  "com.microsoft.QLinearGlobalAveragePool": qlinearPool((_, x) =>
    x.shape.map((dim, axis) => (axis < 2 ? dim : 1)),
  ),
  "com.microsoft.QLinearAveragePool": qlinearPool((context, x) => [
    ...x.shape.slice(0, 2),
    ...windowOf({ ...context, inputs: [x] }).output,
  ]),
  "com.microsoft.QLinearSigmoid": same,
  "com.microsoft.QLinearLeakyRelu": same,
};
