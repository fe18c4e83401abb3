import { tensor } from "../../tensor/index.js";
import { constant, op } from "../create.js";
import { dimProduct } from "../dims.js";
import { intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Node, Shape, Value } from "../types.js";
import { floats, unsupported } from "./helpers.js";
import type { DecompositionTable } from "./types.js";

/** The same bytes as a constant of another dtype and shape: nothing is copied, also for weights that stay in a file. */
function reinterpret(value: Value, dtype: "uint4" | "uint8", shape: readonly number[], node: Node): Value {
  const { source } = value;
  if (source.kind !== "constant")
    throw unsupported(node, "weights", "computed", "quantised weights must be constants");
  return constant({ ...source.data, dtype, shape }, value.name);
}

const size = (node: Node, name: string): number => {
  const value = intAttr(node.attrs, name, 0);
  if (value > 0) return value;
  throw unsupported(node, name, value);
};

/** Weights `[N, K]` of MatMulNBits by DequantizeLinear over the same bytes: (q - zero point)·scale per block. */
function blockWeights(inputs: readonly (Value | undefined)[], scales: Value, node: Node): Value {
  const [bits, columns, depth, block] = [
    intAttr(node.attrs, "bits", 4),
    size(node, "N"),
    size(node, "K"),
    size(node, "block_size"),
  ];
  if (bits !== 4 && bits !== 8) throw unsupported(node, "bits", bits);
  if (inputs[4]) throw unsupported(node, "g_idx", "given");
  const dtype = bits === 4 ? "uint4" : "uint8";
  const blocks = Math.ceil(depth / block);
  const codes = reinterpret(inputs[1] as Value, dtype, [columns, blocks * block], node);
  const zero = zeroPoints(inputs[3], dtype, columns, blocks, node);
  const full = op("DequantizeLinear", [codes, ops.reshape(scales, [columns, blocks]), zero], {
    axis: { i: 1 },
    block_size: { i: block },
  });
  return blocks * block === depth ? full : ops.slice(full, 1, 0, depth);
}

function zeroPoints(
  given: Value | undefined,
  dtype: "uint4" | "uint8",
  columns: number,
  blocks: number,
  node: Node,
): Value {
  if (!given)
    return constant(
      tensor(dtype, [columns, blocks], Array<number>(columns * blocks).fill(dtype === "uint4" ? 8 : 128)),
    );
  if (given.dtype !== "uint8" || (dtype === "uint4" && blocks % 2 !== 0)) {
    throw unsupported(node, "zero points", `${given.dtype} for ${blocks} blocks`);
  }
  return reinterpret(given, dtype, [columns, blocks], node);
}

const NF4 = [
  -1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302,
  0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1,
];
const FP4_POSITIVE = [0, 0.00520833, 0.66666669, 1, 0.33333334, 0.5, 0.16666667, 0.25];
const FP4 = [...FP4_POSITIVE, ...FP4_POSITIVE.map((value) => -value)];

/** Weights `[N, K]` of MatMulBnb4: both values of a byte from one table row, high nibble first, times the block's maximum. */
function bookWeights(inputs: readonly (Value | undefined)[], maxima: Value, node: Node): Value {
  const [columns, depth, block] = [size(node, "N"), size(node, "K"), size(node, "block_size")];
  if (intAttr(node.attrs, "transB", 1) === 0) throw unsupported(node, "transB", 0);
  if ((columns * depth) % block !== 0) throw unsupported(node, "block_size", block, "it must divide N·K");
  const book = intAttr(node.attrs, "quant_type", 1) === 1 ? NF4 : FP4;
  const pairs = Array.from({ length: 256 }, (_, byte) => [
    book[byte >> 4] as number,
    book[byte & 15] as number,
  ]).flat();
  const values = ops.gather(floats([256, 2], pairs, maxima.dtype), ops.cast(inputs[1] as Value, "int32"));
  const blocks = ops.reshape(values, [(columns * depth) / block, block]);
  return ops.reshape(ops.mul(blocks, ops.unsqueeze(maxima, 1)), [columns, depth]);
}

const dequantisers: Readonly<Record<string, typeof blockWeights>> = {
  "com.microsoft.MatMulNBits": blockWeights,
  "com.microsoft.MatMulBnb4": bookWeights,
};

/** The float weights `[N, K]` of a product with quantised weights; `scales` may be the node's own or sequenced ones. */
export function dequantised(inputs: readonly (Value | undefined)[], scales: Value, node: Node): Value {
  const weights = dequantisers[`${node.domain}.${node.op}`];
  if (!weights) throw unsupported(node, "operator", node.op);
  return weights(inputs, scales, node);
}

/** `[..., K]` as a matrix, times `[N, K]ᵀ`. */
export function timesTransposed(x: Value, weights: Value, bias?: Value): Value {
  const shape: Shape = [...x.shape.slice(0, -1), weights.shape[0] ?? 1];
  const rows = ops.reshape(x, [dimProduct(x.shape.slice(0, -1)), x.shape.at(-1) ?? 1]);
  return ops.reshape(ops.gemm(rows, weights, bias, { transB: true }), shape, [x]);
}

export const quantizedProducts: DecompositionTable = Object.fromEntries(
  Object.keys(dequantisers).map((name) => [
    name,
    (inputs, node) => [
      timesTransposed(inputs[0] as Value, dequantised(inputs, inputs[2] as Value, node), inputs[5]),
    ],
  ]),
);
