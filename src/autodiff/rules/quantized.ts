import { TunesmithError } from "../../errors/index.js";
import { dequantisedAfter } from "../../graph/decompose/quantized.js";
import { describe, dimProduct, ops, type Value } from "../../graph/index.js";
import type { VjpRule, VjpTable } from "../types.js";

/**
 * d·W with the weights dequantised when d arrives: without the sequencing edge on the scales ONNX Runtime would
 * dequantise every layer first and hold all of them. Quantised weights themselves have no gradient.
 */
const product: VjpRule = ({ dy, inputs, needs, node }) => {
  const [x] = inputs as [Value];
  if (needs(2)) {
    throw new TunesmithError("op-not-differentiable", `${describe(node)} has no gradient for its scales`, {
      fix: "train an adapter beside the quantised weights, or load the model unquantised",
      details: { op: node.op, node: node.name, scope: node.scope },
    });
  }
  const rows = ops.reshape(dy, [dimProduct(dy.shape.slice(0, -1)), dy.shape.at(-1) ?? 1]);
  const dx = () => ops.reshape(ops.gemm(rows, dequantisedAfter(inputs, dy, node)), x.shape, [x]);
  return [
    needs(0) ? dx() : undefined,
    undefined,
    undefined,
    undefined,
    undefined,
    needs(5) ? ops.reduceSum(rows, [0], false) : undefined,
  ];
};

export const quantizedProducts: VjpTable = {
  "com.microsoft.MatMulNBits": product,
  "com.microsoft.MatMulBnb4": product,
  "tunesmith.MatMulNormalFloat": product,
};
