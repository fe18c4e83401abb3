import { type Dtype, dtypeFromOnnx } from "../../tensor/index.js";
import { broadcastShapes, dimMul } from "../dims.js";
import type { Dim, Shape, Value } from "../types.js";
import { windowOf } from "../window.js";
import { matmulShape } from "./linear.js";
import { type InferContext, type InferRule, intAttr, like, mismatch, need, where } from "./types.js";

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
  const { output } = windowOf({ ...context, inputs: [x, w] });
  return [x.shape[0] as Dim, w.shape[0] as Dim, ...output];
}

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
  "com.microsoft.MatMulFpQ4": blockMatMul,
  "com.microsoft.GatherBlockQuantized": gatherBlocks,
  "com.microsoft.QLinearAdd": qlinearBinary,
  "com.microsoft.QLinearMul": qlinearBinary,
  "com.microsoft.QLinearSigmoid": same,
  "com.microsoft.QLinearLeakyRelu": same,
};
