import { type Dtype, NF4, tensor } from "../../tensor/index.js";
import { constant, op } from "../create.js";
import { dimProduct, normalAxis } from "../dims.js";
import { intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Shape, Value } from "../types.js";
import { floats, unsupported } from "./helpers.js";
import { normalFloatWeights } from "./normal-float.js";
import type { Decomposition, DecompositionTable } from "./types.js";

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

/**
 * Weights `[N, K]` of MatMulNBits, (q - zero point)·scale per block: by DequantizeLinear over the same bytes where that can
 * read them, else by a table of what every byte holds.
 */
function blockWeights(inputs: readonly (Value | undefined)[], scales: Value, node: Node): Value {
  const bits = intAttr(node.attrs, "bits", 4);
  const [columns, depth, block] = [size(node, "N"), size(node, "K"), size(node, "block_size")];
  if (bits !== 2 && bits !== 4 && bits !== 8) throw unsupported(node, "bits", bits);
  if (inputs[4]) throw unsupported(node, "g_idx", "given");
  const layout = { bits, columns, blocks: Math.ceil(depth / block), block };
  const full = direct(inputs, scales, layout, node) ?? byTable(inputs, scales, layout);
  return layout.blocks * block === depth ? full : ops.slice(full, 1, 0, depth);
}

interface Layout {
  readonly bits: number;
  readonly columns: number;
  readonly blocks: number;
  readonly block: number;
}

/** Undefined where the zero points are floats, or do not fill their bytes, or the codes have 2 bits. */
function direct(
  inputs: readonly (Value | undefined)[],
  scales: Value,
  { bits, columns, blocks, block }: Layout,
  node: Node,
): Value | undefined {
  const given = inputs[3];
  const unreadable = given && (given.dtype !== "uint8" || (bits === 4 && blocks % 2 !== 0));
  if (bits === 2 || unreadable) return undefined;
  const dtype = bits === 4 ? "uint4" : "uint8";
  const codes = reinterpret(inputs[1] as Value, dtype, [columns, blocks * block], node);
  const middle = () => Array<number>(columns * blocks).fill(2 ** (bits - 1));
  const zero = given
    ? reinterpret(given, dtype, [columns, blocks], node)
    : constant(tensor(dtype, [columns, blocks], middle()));
  return op("DequantizeLinear", [codes, ops.reshape(scales, [columns, blocks]), zero], {
    axis: { i: 1 },
    block_size: { i: block },
  });
}

function byTable(
  inputs: readonly (Value | undefined)[],
  scales: Value,
  { bits, columns, blocks, block }: Layout,
): Value {
  const given = inputs[3];
  const codes = ops.reshape(unpacked(inputs[1] as Value, bits, scales.dtype), [columns, blocks, block]);
  const perRow = Math.ceil((blocks * bits) / 8) * (8 / bits);
  const points =
    given?.dtype === "uint8" &&
    ops.slice(ops.reshape(unpacked(given, bits, scales.dtype), [columns, perRow]), 1, 0, blocks);
  const zero = points || (given ? ops.reshape(given, [columns, blocks]) : undefined);
  const centred = ops.sub(codes, zero ? ops.unsqueeze(ops.cast(zero, scales.dtype), -1) : 2 ** (bits - 1));
  const values = ops.mul(centred, ops.reshape(scales, [columns, blocks, 1]));
  return ops.reshape(values, [columns, blocks * block]);
}

/** Bytes as the `8 / bits` numbers each holds, lowest bits first, in a new last axis. */
export function unpacked(bytes: Value, bits: number, dtype: Dtype, signed = false): Value {
  const [count, levels] = [8 / bits, 2 ** bits];
  const table = Array.from({ length: 256 }, (_, byte) =>
    Array.from({ length: count }, (_, at) => {
      const code = (byte >> (at * bits)) % levels;
      return signed && code >= levels / 2 ? code - levels : code;
    }),
  ).flat();
  return ops.gather(floats([256, count], table, dtype), ops.cast(bytes, "int32"));
}

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
  "tunesmith.MatMulNormalFloat": normalFloatWeights,
};

/** An operand of codes that go through a table: sessions would unpack it once for all runs, and keep that. */
const TABLES = new Set(["MatMulBnb4", "MatMulNormalFloat"]);

/** The same, made floats when `value` is there. */
export const dequantisedAfter = (inputs: readonly (Value | undefined)[], value: Value, node: Node): Value => {
  const [, codes, scales] = inputs as readonly Value[];
  const late = TABLES.has(node.op) ? inputs.with(1, ops.after(codes as Value, value)) : inputs;
  return dequantised(late, ops.after(scales as Value, value), node);
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

/**
 * Rows of a table of codes: the bytes of the rows are gathered, then made floats. Signed and unsigned 4-bit tensors are
 * read as the bytes they lie in.
 */
const gatherBlocks: Decomposition = (inputs, node) => {
  const [data, indices, scales, zeros] = inputs as [Value, Value, Value, Value | undefined];
  const rank = data.shape.length;
  const axisOf = (name: string, fallback: number) =>
    normalAxis(intAttr(node.attrs, name, fallback), rank, name);
  const [from, along] = [axisOf("gather_axis", 0), axisOf("quantize_axis", 1)];
  if (from !== 0) throw unsupported(node, "gather_axis", from);
  if (along !== rank - 1) throw unsupported(node, "quantize_axis", along);
  const bits = data.dtype === "uint8" ? intAttr(node.attrs, "bits", 4) : 4;
  if (bits !== 4 && bits !== 8) throw unsupported(node, "bits", bits);
  const signed = data.dtype === "int4";
  const rows = (value: Value) => {
    const bytes = value.dtype === "uint8" ? value : bytesOf(value, node);
    const chosen = ops.gather(bytes, indices);
    if (bits === 8) return ops.cast(chosen, scales.dtype);
    const pairs = unpacked(chosen, bits, scales.dtype, signed);
    return ops.reshape(pairs, [...chosen.shape.slice(0, -1), Number(chosen.shape.at(-1)) * 2], [chosen]);
  };
  const step = ops.gather(scales, indices);
  const [codes, blocks] = [rows(data), Number(scales.shape.at(-1))];
  const width = Number(codes.shape.at(-1));
  const block = intAttr(node.attrs, "block_size", 128);
  const shape = (last: readonly Dim[]): Shape => [...codes.shape.slice(0, -1), ...last];
  const middle = data.dtype === "uint8" ? 2 ** (bits - 1) : 0;
  const missing = blocks * block - width;
  const none = codes.shape.map(() => 0);
  const full = missing === 0 ? codes : ops.pad(codes, none, [...none.slice(0, -1), missing]);
  const cut = ops.reshape(full, shape([blocks, block]), [codes]);
  const point = zeros ? ops.unsqueeze(ops.slice(rows(zeros), -1, 0, blocks), -1) : middle;
  const values = ops.reshape(ops.mul(ops.sub(cut, point), ops.unsqueeze(step, -1)), shape([blocks * block]), [
    codes,
  ]);
  return [missing === 0 ? values : ops.slice(values, -1, 0, width)];
};

/** A constant of 4-bit numbers as the bytes that hold two each. */
function bytesOf(value: Value, node: Node): Value {
  const width = Number(value.shape.at(-1));
  if (width % 2 !== 0) throw unsupported(node, "row length", width);
  return reinterpret(value, "uint8", [...(value.shape.slice(0, -1) as number[]), width / 2], node);
}

const products: DecompositionTable = Object.fromEntries(
  Object.keys(dequantisers).map((name) => [
    name,
    (inputs, node) => [
      timesTransposed(inputs[0] as Value, dequantised(inputs, inputs[2] as Value, node), inputs[5]),
    ],
  ]),
);

export const quantizedProducts: DecompositionTable = {
  ...products,
  // No runtime has this operator: it runs as what it stands for, and its floats are not to be kept between runs.
  "tunesmith.MatMulNormalFloat": (inputs, node) => [
    timesTransposed(inputs[0] as Value, dequantisedAfter(inputs, inputs[0] as Value, node)),
  ],
  "com.microsoft.GatherBlockQuantized": gatherBlocks,
};
