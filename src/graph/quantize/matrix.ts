import {
  blockMaxima,
  dequantizeInt4,
  dequantizeInt8,
  dequantizeMaxima,
  dequantizeNf4,
  dequantizeNormalFloat,
  dynamicMap,
  type Int4Layout,
  type NormalFloatMatrix,
  quantizeInt4,
  quantizeInt8,
  quantizeMaxima,
  quantizeNf4,
  quantizeNormalFloat,
  type Tensor,
  tensor,
} from "../../tensor/index.js";
import { constant, input, makeNode, op } from "../create.js";
import { dequantised } from "../decompose/quantized.js";
import { dimProduct } from "../dims.js";
import * as ops from "../ops/index.js";
import type { Attrs, Node, Value } from "../types.js";
import { layoutOfNormalFloat, type Quantization } from "./settings.js";

/** A weight `[rows, columns]` (outputs by inputs) as it is kept: tensors by their part. */
export interface QuantizedMatrix<T> {
  readonly rows: number;
  readonly columns: number;
  readonly settings: Quantization;
  /** `codes` and `scales`; perhaps `zeros`; of double quantisation `scaleCodes`, `scaleScales` and `offset`. */
  readonly parts: Readonly<Record<string, T>>;
}

/** Why a matrix of this size cannot be kept so; undefined when it can. */
export function misfitOf(
  { kind, blockSize = 1 }: Quantization,
  rows: number,
  columns: number,
): string | undefined {
  if ((kind !== "nf4" && kind !== "nf") || (rows * columns) % blockSize === 0) return undefined;
  return `${rows} x ${columns} weights do not divide into blocks of ${blockSize}`;
}

const layoutOf = (settings: Quantization, rows: number, columns: number): Int4Layout => ({
  rows,
  columns,
  blockSize: settings.blockSize ?? 32,
  symmetric: settings.symmetric ?? true,
});

/** @param weight `[rows, columns]`, row-major. */
export function quantizeMatrix(
  weight: Float32Array,
  rows: number,
  columns: number,
  settings: Quantization,
): QuantizedMatrix<Tensor> {
  const whole = { rows, columns, settings };
  if (settings.kind === "int8") {
    const { codes, scales } = quantizeInt8(weight, rows, columns);
    return {
      ...whole,
      parts: { codes: tensor("int8", [rows, columns], codes), scales: tensor("float32", [rows], scales) },
    };
  }
  if (settings.kind === "int8-dynamic") {
    // MatMulInteger reads the weight as it multiplies, inputs by outputs. Unsigned: processors without VNNI let sums of unsigned
    // by signed bytes overflow.
    const { codes, scales } = quantizeInt8(weight, rows, columns);
    return {
      ...whole,
      parts: {
        codes: tensor(
          "uint8",
          [columns, rows],
          turned(
            Uint8Array.from(codes, (code) => code + 128),
            rows,
            columns,
          ),
        ),
        scales: tensor("float32", [rows], scales),
        zeros: tensor("uint8", [rows], new Uint8Array(rows).fill(128)),
      },
    };
  }
  if (settings.kind === "nf")
    return { ...whole, parts: normalFloatParts(quantizeNormalFloat(weight, layoutOfNormalFloat(settings))) };
  return {
    ...whole,
    parts: settings.kind === "int4" ? int4(weight, rows, columns, settings) : nf4(weight, settings),
  };
}

/** NormalFloat as the parts of a matrix. */
export const normalFloatParts = ({ codes, ...scales }: NormalFloatMatrix): Record<string, Tensor> => ({
  codes: tensor("uint8", [codes.length], codes),
  ...normalFloatScaleParts(scales),
});

/** The scales of NormalFloat as parts of a matrix. */
export const normalFloatScaleParts = ({
  scaleCodes,
  factors,
  offset,
}: Omit<NormalFloatMatrix, "codes">): Record<string, Tensor> => ({
  scaleCodes: tensor("uint8", [scaleCodes.length], scaleCodes),
  scaleScales: factors,
  offset: tensor("float32", [], Float32Array.of(offset)),
});

/** Parts of a matrix of kind `nf` as the codec has them. */
export const normalFloatOf = ({ parts }: QuantizedMatrix<Tensor>): NormalFloatMatrix => ({
  codes: parts.codes?.data as Uint8Array,
  scaleCodes: parts.scaleCodes?.data as Uint8Array,
  factors: parts.scaleScales as Tensor,
  offset: Number((parts.offset as Tensor).data[0]),
});

function turned(codes: Uint8Array, rows: number, columns: number): Uint8Array {
  const out = new Uint8Array(codes.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = codes[row * columns + column] as number;
  return out;
}

function int4(
  weight: Float32Array,
  rows: number,
  columns: number,
  settings: Quantization,
): Record<string, Tensor> {
  const layout = layoutOf(settings, rows, columns);
  const { codes, scales, zeros } = quantizeInt4(weight, layout);
  const blocks = Math.ceil(columns / layout.blockSize);
  return {
    codes: tensor("uint8", [rows, blocks, layout.blockSize / 2], codes),
    scales: tensor("float32", [rows * blocks], scales),
    ...(zeros ? { zeros: tensor("uint8", [zeros.length], zeros) } : {}),
  };
}

function nf4(weight: Float32Array, { blockSize = 64, doubleQuant }: Quantization): Record<string, Tensor> {
  if (!doubleQuant) {
    const { codes, maxima } = quantizeNf4(weight, { blockSize });
    return {
      codes: tensor("uint8", [codes.length], codes),
      scales: tensor("float32", [maxima.length], maxima),
    };
  }
  const maxima = blockMaxima(weight, blockSize);
  const { codes } = quantizeNf4(weight, { blockSize, maxima });
  const packed = quantizeMaxima(maxima);
  return {
    codes: tensor("uint8", [codes.length], codes),
    scaleCodes: tensor("uint8", [packed.codes.length], packed.codes),
    scaleScales: tensor("float32", [packed.scales.length], packed.scales),
    offset: tensor("float32", [], Float32Array.of(packed.offset)),
  };
}

/** The numbers of a quantised weight, `[rows, columns]` row-major. */
export function dequantizeMatrix(matrix: QuantizedMatrix<Tensor>): Float32Array {
  const { rows, columns, settings, parts } = matrix;
  if (settings.kind === "nf")
    return dequantizeNormalFloat(normalFloatOf(matrix), layoutOfNormalFloat(settings), rows * columns);
  const bytes = (name: string) => (parts[name] as Tensor).data as Uint8Array;
  const floats = (name: string) => (parts[name] as Tensor).data as Float32Array;
  if (settings.kind === "int8") {
    const codes = parts.codes?.data as Int8Array;
    return dequantizeInt8({ codes, scales: floats("scales") }, rows, columns);
  }
  if (settings.kind === "int8-dynamic") {
    const codes = Int8Array.from(turned(bytes("codes"), columns, rows), (code) => code - 128);
    return dequantizeInt8({ codes, scales: floats("scales") }, rows, columns);
  }
  if (settings.kind === "int4") {
    const zeros = parts.zeros ? { zeros: bytes("zeros") } : {};
    const packed = { codes: bytes("codes"), scales: floats("scales"), ...zeros };
    return dequantizeInt4(packed, layoutOf(settings, rows, columns));
  }
  const maxima = settings.doubleQuant
    ? dequantizeMaxima({
        codes: bytes("scaleCodes"),
        scales: floats("scaleScales"),
        offset: floats("offset")[0] as number,
      })
    : floats("scales");
  return dequantizeNf4({ codes: bytes("codes"), maxima }, settings.blockSize);
}

/** Scales that are kept in 8 bits themselves, as floats. */
function singleScales({ parts }: QuantizedMatrix<Value>): Value {
  const { scales, scaleCodes, scaleScales, offset } = parts;
  if (scales) return scales;
  const map = constant(tensor("float32", [256], dynamicMap(true)));
  const [codes, factors] = [scaleCodes as Value, scaleScales as Value];
  const [count, blocks] = [codes.shape[0] as number, factors.shape[0] as number];
  const values = ops.gather(map, ops.cast(codes, "int32"));
  const missing = blocks * 256 - count;
  const full = missing === 0 ? values : ops.pad(values, [0], [missing]);
  const scaled = ops.mul(ops.reshape(full, [blocks, 256]), ops.unsqueeze(factors, 1));
  return ops.add(ops.slice(ops.reshape(scaled, [blocks * 256]), 0, 0, count), offset as Value);
}

/**
 * x `[..., columns]` times the transposed weight, plus a bias `[rows]`: the operator that reads the codes as they are.
 * int8 is made floats before a Gemm, which costs little and is exact; int4 is MatMulNBits, nf4 MatMulBnb4, nf lookups in tables
 * before a Gemm.
 */
export function quantizedProduct(x: Value, matrix: QuantizedMatrix<Value>, bias?: Value): Value {
  const { rows, columns, settings, parts } = matrix;
  if (settings.kind === "int8-dynamic") return integerProduct(x, parts, bias);
  if (settings.kind !== "int8") {
    const [y] = fusedProduct(x, matrix, bias).outputs as [Value];
    return settings.kind !== "int4" && bias ? ops.add(y, bias) : y;
  }
  const flat = x.shape.length === 2 ? x : ops.reshape(x, [dimProduct(x.shape.slice(0, -1)), columns], [x]);
  const y = ops.gemm(flat, quantizedWeight(matrix), bias, { transB: true });
  return x.shape.length === 2 ? y : ops.reshape(y, [...x.shape.slice(0, -1), rows], [x]);
}

/** The activations' range is found while it runs; the product is one of integers. */
function integerProduct(
  x: Value,
  { codes, scales, zeros }: QuantizedMatrix<Value>["parts"],
  bias?: Value,
): Value {
  const [quantized, scale, zero] = makeNode("DynamicQuantizeLinear", [x]).outputs as [Value, Value, Value];
  const product = ops.cast(op("MatMulInteger", [quantized, codes, zero, zeros]), "float32");
  const y = ops.mul(product, ops.mul(scale, scales as Value));
  return bias ? ops.add(y, bias) : y;
}

/** MatMulNBits with its bias, or MatMulBnb4 or MatMulNormalFloat without. */
function fusedProduct(x: Value, matrix: QuantizedMatrix<Value>, bias?: Value): Node {
  const { rows, columns, settings, parts } = matrix;
  const options = { domain: "com.microsoft" };
  const size: Attrs = { N: { i: rows }, K: { i: columns }, block_size: { i: settings.blockSize ?? 0 } };
  if (settings.kind === "nf4") {
    const operands = [x, parts.codes, singleScales(matrix)];
    return makeNode("MatMulBnb4", operands, { ...size, quant_type: { i: 1 } }, options);
  }
  if (settings.kind === "nf") {
    const { bits, scaleBits, superBlock } = layoutOfNormalFloat(settings);
    const operands = [x, parts.codes, parts.scaleCodes, parts.scaleScales, parts.offset];
    const own: Attrs = { bits: { i: bits }, scale_bits: { i: scaleBits }, super_block: { i: superBlock } };
    return makeNode("MatMulNormalFloat", operands, { ...size, ...own }, { domain: "tunesmith" });
  }
  const level: Attrs = settings.activations === "int8" ? { accuracy_level: { i: 4 } } : {};
  const operands = [x, parts.codes, parts.scales, parts.zeros, undefined, bias];
  const used = operands.findLastIndex((value) => value !== undefined) + 1;
  return makeNode("MatMulNBits", operands.slice(0, used), { ...size, bits: { i: 4 }, ...level }, options);
}

/** What follows a weight's name in the names of its parts; the codes have the weight's own. */
const SUFFIXES: Readonly<Record<string, string>> = {
  codes: "",
  scales: "_scales",
  zeros: "_zero_points",
  scaleCodes: "_scales_quantized",
  scaleScales: "_scales_scales",
  offset: "_scales_offset",
};

/** Name in files of a part of the weight `name`. */
export const partName = (name: string, part: string): string => `${name}${SUFFIXES[part] ?? `_${part}`}`;

/** The weight as floats in the graph, `[rows, columns]`: what the product multiplies with. */
export function quantizedWeight(matrix: QuantizedMatrix<Value>): Value {
  if (matrix.settings.kind === "int8")
    return op("DequantizeLinear", [matrix.parts.codes, matrix.parts.scales], { axis: { i: 0 } });
  if (matrix.settings.kind === "int8-dynamic") {
    const { codes, scales, zeros } = matrix.parts;
    return ops.transpose(op("DequantizeLinear", [codes, scales, zeros], { axis: { i: 1 } }), [1, 0]);
  }
  const node = fusedProduct(input("x", "float32", [1, matrix.columns]), matrix);
  return dequantised(node.inputs, node.inputs[2] as Value, node);
}
