import { makeNode, op } from "../create.js";
import { floatAttr, intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Attrs, Node, Value } from "../types.js";
import { channelsFirst, channelsLast } from "./layout.js";
import type { Decomposition, DecompositionTable } from "./types.js";

type Inputs = readonly (Value | undefined)[];

const real = (codes: Value | undefined, scale: Value | undefined, zero: Value | undefined, axis = 1): Value =>
  op("DequantizeLinear", [codes, scale, zero], scale?.shape.length === 1 ? { axis: { i: axis } } : {});

const codes = (x: Value, scale: Value | undefined, zero: Value | undefined): Value =>
  op(
    "QuantizeLinear",
    [x, scale, zero],
    scale?.shape.length === 1 && scale.shape[0] !== 1 ? { axis: { i: 1 } } : {},
  );

/** Codes times the product of the scales, the way a bias of int32 is stored. */
const realBias = (bias: Value | undefined, x: Value, w: Value): Value | undefined =>
  bias && ops.mul(ops.cast(bias, "float32"), ops.mul(x, w));

const qlinearConv: Decomposition = (inputs, node) => {
  const [x, xScale, xZero, w, wScale, wZero, yScale, yZero, bias] = inputs as [
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    Value,
    ...Inputs,
  ];
  const last = intAttr(node.attrs, "channels_last", 0) !== 0;
  const data = real(x, xScale, xZero);
  const y = op(
    "Conv",
    [last ? channelsFirst(data) : data, real(w, wScale, wZero, 0), realBias(bias, xScale, wScale)],
    without(node.attrs, "channels_last"),
  );
  return [codes(last ? channelsLast(y) : y, yScale, yZero)];
};

const without = (attrs: Attrs, name: string): Attrs =>
  Object.fromEntries(Object.entries(attrs).filter(([key]) => key !== name));

const qlinearMatMul: Decomposition = ([a, aScale, aZero, b, bScale, bZero, yScale, yZero]) => {
  const [left, right] = [real(a, aScale, aZero, 0), real(b, bScale, bZero, (b as Value).shape.length - 1)];
  return [codes(ops.matmul(left, right), yScale, yZero)];
};

/** The result is float where no scale for it is given. */
const qgemm: Decomposition = ([a, aScale, aZero, b, bScale, bZero, c, yScale, yZero], node) => {
  const alpha = floatAttr(node.attrs, "alpha", 1);
  const transB = intAttr(node.attrs, "transB", 0) !== 0;
  const bias = realBias(c, ops.mul(aScale as Value, alpha), bScale as Value);
  const y = ops.gemm(real(a, aScale, aZero), real(b, bScale, bZero, transB ? 0 : 1), bias, {
    transA: intAttr(node.attrs, "transA", 0) !== 0,
    transB,
    alpha,
  });
  return [yScale ? codes(y, yScale, yZero) : y];
};

const binary =
  (apply: (a: Value, b: Value) => Value): Decomposition =>
  ([a, aScale, aZero, b, bScale, bZero, yScale, yZero]) => [
    codes(apply(real(a, aScale, aZero), real(b, bScale, bZero)), yScale, yZero),
  ];

const unary =
  (apply: (x: Value, node: Node) => Value): Decomposition =>
  ([x, xScale, xZero, yScale, yZero], node) => [codes(apply(real(x, xScale, xZero), node), yScale, yZero)];

const pooled = (pool: (x: Value, node: Node) => Value) =>
  unary((x, node) => {
    const last = intAttr(node.attrs, "channels_last", 0) !== 0;
    const y = pool(last ? channelsFirst(x) : x, node);
    return last ? channelsLast(y) : y;
  });

/** Scale, zero point, then the same for every part. */
const qlinearConcat: Decomposition = ([yScale, yZero, ...parts], node) => {
  const values = Array.from({ length: parts.length / 3 }, (_, at) =>
    real(parts[3 * at], parts[3 * at + 1], parts[3 * at + 2]),
  );
  return [codes(ops.concat(values, intAttr(node.attrs, "axis", 1)), yScale, yZero)];
};

const qlinearWhere: Decomposition = ([condition, a, aScale, aZero, b, bScale, bZero, yScale, yZero]) => [
  codes(ops.where(condition as Value, real(a, aScale, aZero), real(b, bScale, bZero)), yScale, yZero),
];

const softmax = (x: Value, node: Node): Value => {
  const rank = x.shape.length;
  const axis = intAttr(node.attrs, "axis", -1);
  if (intAttr(node.attrs, "opset", 13) >= 13 || axis === -1 || axis === rank - 1) return ops.softmax(x, axis);
  return ops.reshape(ops.softmax(op("Flatten", [x], { axis: { i: axis } })), x.shape, [x]);
};

/** An LSTM whose weights are codes `[directions, in, 4·hidden]`; what it rounds of its data is not reproduced. */
const quantisedLstm: Decomposition = (inputs, node) => {
  const [x, w, r, b, lengths, h, c, p, wScale, wZero, rScale, rZero] = inputs as [
    Value,
    Value,
    Value,
    ...Inputs,
  ];
  const weights = (code: Value, scale: Value | undefined, zero: Value | undefined) => {
    const along = (value: Value) => {
      const flat = ops.cast(value, "float32");
      return value.shape.length === 2 ? ops.unsqueeze(flat, 1) : ops.unsqueeze(flat, 1, 2);
    };
    const codes = ops.cast(code, "float32");
    const centred = zero ? ops.sub(codes, along(zero)) : codes;
    return ops.transposeLast(ops.mul(centred, along(scale as Value)));
  };
  const operands = [x, weights(w, wScale, wZero), weights(r, rScale, rZero), b, lengths, h, c, p];
  return makeNode("LSTM", operands, node.attrs, { outputs: node.outputs.length }).outputs;
};

/** Operators over codes as the float operators they approximate, between DequantizeLinear and QuantizeLinear. */
export const qlinears: DecompositionTable = {
  QLinearConv: qlinearConv,
  "com.microsoft.QLinearConv": qlinearConv,
  QLinearMatMul: qlinearMatMul,
  "com.microsoft.QGemm": qgemm,
  "com.microsoft.QLinearAdd": binary(ops.add),
  "com.microsoft.QLinearMul": binary(ops.mul),
  "com.microsoft.QLinearSigmoid": unary(ops.sigmoid),
  "com.microsoft.QLinearLeakyRelu": unary((x, node) => op("LeakyRelu", [x], node.attrs)),
  "com.microsoft.QLinearSoftmax": unary(softmax),
  "com.microsoft.QLinearGlobalAveragePool": pooled((x) => op("GlobalAveragePool", [x])),
  "com.microsoft.QLinearAveragePool": pooled((x, node) =>
    op("AveragePool", [x], without(node.attrs, "channels_last")),
  ),
  "com.microsoft.QLinearConcat": qlinearConcat,
  "com.microsoft.QLinearWhere": qlinearWhere,
  "com.microsoft.DynamicQuantizeLSTM": quantisedLstm,
};
