import { type CodeBits, highPlane, normalFloatLevels, tensor } from "../../tensor/index.js";
import { constant } from "../create.js";
import { intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Node, Value } from "../types.js";
import { unsupported } from "./helpers.js";

function bitsOf(node: Node, name: string): CodeBits {
  const bits = intAttr(node.attrs, name, 0);
  if (bits === 2 || bits === 3 || bits === 4 || bits === 8) return bits;
  throw unsupported(node, name, bits);
}

const tables = new Map<string, Value>();

/** What every byte of codes stands for, 12 bits of 3-bit codes; one constant for all weights. */
function tableOf(bits: CodeBits, kind: "levels" | "steps"): Value {
  const known = tables.get(`${bits} ${kind}`);
  if (known) return known;
  const numbers =
    kind === "levels"
      ? normalFloatLevels(bits)
      : Float32Array.from({ length: 2 ** bits }, (_, at) => at / (2 ** bits - 1));
  const [width, rows] = bits === 3 ? [4, 4096] : [8 / bits, 256];
  const codeAt = (index: number, k: number) =>
    bits === 3
      ? ((index >> (2 * k)) & 3) | (((index >> (8 + k)) & 1) << 2)
      : (index >> (k * bits)) & (2 ** bits - 1);
  const data = Float32Array.from(
    { length: rows * width },
    (_, at) => numbers[codeAt(Math.floor(at / width), at % width)] as number,
  );
  const table = constant(tensor("float32", [rows, width], data));
  tables.set(`${bits} ${kind}`, table);
  return table;
}

/** Codes that `packCodes` packed, each as its number of the table: `[count]` float32. */
function lookedUp(bytes: Value, count: number, bits: CodeBits, kind: "levels" | "steps"): Value {
  const rows = bits === 3 ? twelve(bytes, count) : ops.cast(bytes, "int32");
  const found = ops.gather(tableOf(bits, kind), rows);
  const length = Number(found.shape[0]) * Number(found.shape[1]);
  const flat = ops.reshape(found, [length]);
  return length === count ? flat : ops.slice(flat, 0, 0, count);
}

/** Four codes of 3 bits as one number: a byte of their low bits, and half a byte of the high ones. */
function twelve(bytes: Value, count: number): Value {
  const from = highPlane(count);
  const halves = Int32Array.from({ length: 512 }, (_, at) => 256 * (at % 2 === 0 ? (at >> 1) & 15 : at >> 5));
  const high = ops.gather(
    constant(tensor("int32", [256, 2], halves)),
    ops.cast(ops.slice(bytes, 0, from, Number(bytes.shape[0])), "int32"),
  );
  return ops.add(ops.cast(ops.slice(bytes, 0, 0, from), "int32"), ops.reshape(high, [from]));
}

/**
 * Weights `[N, K]` of MatMulNormalFloat, whose inputs are x, codes, codes of scales, factors of super-blocks and the offset:
 * `level[code] · (factor · scale code / (2^b0 − 1) + offset)`.
 */
export function normalFloatWeights(
  inputs: readonly (Value | undefined)[],
  scaleCodes: Value,
  node: Node,
): Value {
  const [, codes, , factors, offset] = inputs as readonly Value[];
  const [bits, scaleBits] = [bitsOf(node, "bits"), bitsOf(node, "scale_bits")];
  const [rows, columns, block, superBlock] = ["N", "K", "block_size", "super_block"].map((name) => {
    const value = intAttr(node.attrs, name, 0);
    if (value > 0) return value;
    throw unsupported(node, name, value);
  }) as [number, number, number, number];
  const blocks = (rows * columns) / block;
  const parts = lookedUp(scaleCodes, blocks, scaleBits, "steps");
  const scales = ops.add(
    timesFactors(parts, ops.cast(factors as Value, "float32"), superBlock),
    offset as Value,
  );
  const values = lookedUp(codes as Value, rows * columns, bits, "levels");
  const scaled = ops.mul(ops.reshape(values, [blocks, block]), ops.unsqueeze(scales, 1));
  return ops.reshape(scaled, [rows, columns]);
}

/** Each of the parts times the factor of its super-block. */
function timesFactors(parts: Value, factors: Value, superBlock: number): Value {
  const [count, supers] = [Number(parts.shape[0]), Number(factors.shape[0])];
  if (supers === 1) return ops.mul(parts, factors);
  const missing = supers * superBlock - count;
  const full = missing === 0 ? parts : ops.pad(parts, [0], [missing]);
  const scaled = ops.mul(ops.reshape(full, [supers, superBlock]), ops.unsqueeze(factors, 1));
  const flat = ops.reshape(scaled, [supers * superBlock]);
  return missing === 0 ? flat : ops.slice(flat, 0, 0, count);
}
