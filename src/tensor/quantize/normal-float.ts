import { TunesmithError } from "../../errors/index.js";
import { castTensor, toFloat32 } from "../cast.js";
import { byteLengthOf } from "../dtype.js";
import { type Tensor, tensor } from "../tensor.js";
import { type CodeBits, codeBytes, packCodes, unpackCodes } from "./bits.js";
import { blockMaxima } from "./nf4.js";

/** How numbers are kept in NormalFloat: `c = (b, b0, b1, B0, B1)` of LQ-LoRA (arXiv 2311.12023). */
export interface NormalFloatLayout {
  /** Bits of a value's code. */
  readonly bits: CodeBits;
  /** Values that share a scale; a multiple of 8 that divides their number. */
  readonly blockSize: number;
  /** Bits of a scale's code. */
  readonly scaleBits: CodeBits;
  /** Scales that share a factor. */
  readonly superBlock: number;
  readonly scaleDtype: "float16" | "bfloat16" | "float32";
}

/** Numbers in NormalFloat; `level[code] · (factor · scaleCode / (2^b0 − 1) + offset)`. */
export interface NormalFloatMatrix {
  /** Codes of values, as `packCodes` lays them. */
  readonly codes: Uint8Array;
  /** Codes of scales, packed likewise. */
  readonly scaleCodes: Uint8Array;
  /** A factor per super-block, of the layout's `scaleDtype`. */
  readonly factors: Tensor;
  /** The least scale. */
  readonly offset: number;
}

/** Where the outermost levels lie on the normal distribution, as in QLoRA. */
const EDGE = 0.9677083;

const tables = new Map<CodeBits, Float32Array>();

/**
 * The 2^bits levels of NormalFloat, ascending, with −1, 0 and 1 among them: quantiles of the normal distribution, one more
 * above zero than below.
 *
 * @example
 * ```ts
 * import { normalFloatLevels } from "tunesmith/tensor";
 * console.log(normalFloatLevels(2)); // -1, 0, 0.338, 1
 * ```
 */
export function normalFloatLevels(bits: CodeBits): Float32Array {
  const known = tables.get(bits);
  if (known) return known;
  const half = 2 ** (bits - 1);
  const between = (from: number, to: number, steps: number, at: number) => from + ((to - from) * at) / steps;
  const below = Array.from({ length: half - 1 }, (_, at) => between(1 - EDGE, 0.5, half - 1, at));
  const above = Array.from({ length: half + 1 }, (_, at) => between(0.5, EDGE, half, at));
  const largest = normalQuantile(EDGE);
  const levels = Float32Array.from([...below, ...above], (p) => normalQuantile(p) / largest);
  tables.set(bits, levels);
  return levels;
}

/** Inverse of the normal distribution function near its middle: Newton on its power series. */
function normalQuantile(p: number): number {
  if (p < 0.5) return -normalQuantile(1 - p);
  const target = (p - 0.5) * Math.sqrt(2 * Math.PI);
  let x = 0;
  for (let round = 0; round < 50; round++) {
    let [term, sum] = [x, x];
    for (let n = 1; n < 80; n++) {
      term *= -(x * x) / (2 * n);
      sum += term / (2 * n + 1);
    }
    x -= (sum - target) * Math.exp((x * x) / 2);
  }
  return x;
}

/** Bits that a weight takes: `b + b0 / B0 + b1 / (B0·B1)`, where all blocks are full. */
export const normalFloatBits = ({ bits, blockSize, scaleBits, superBlock, scaleDtype }: NormalFloatLayout) =>
  bits + scaleBits / blockSize + (8 * byteLengthOf(scaleDtype, 1)) / (blockSize * superBlock);

/** Bits that `count` numbers take in all, bytes that are not full and the 32 bits of the offset included. */
export function normalFloatStorage(layout: NormalFloatLayout, count: number): number {
  const { bits, blockSize, scaleBits, superBlock, scaleDtype } = layout;
  const scales = count / blockSize;
  const bytes =
    codeBytes(count, bits) +
    codeBytes(scales, scaleBits) +
    byteLengthOf(scaleDtype, Math.ceil(scales / superBlock));
  return 8 * bytes + 32;
}

/** Scales of blocks as they are kept, and as they act. */
export type NormalFloatScales = Pick<NormalFloatMatrix, "scaleCodes" | "factors" | "offset"> & {
  readonly values: Float32Array;
};

/**
 * Scales less the least of them, in steps of the largest of their super-block. Throws `config-invalid` where `scaleDtype` has
 * no number as large.
 */
export function quantizeScales(scales: Float32Array, layout: NormalFloatLayout): NormalFloatScales {
  const { superBlock, scaleBits, scaleDtype } = layout;
  const offset = scales.reduce((least, scale) => Math.min(least, scale), Number.POSITIVE_INFINITY);
  const exact = new Float32Array(Math.ceil(scales.length / superBlock));
  for (const [at, scale] of scales.entries()) {
    const block = Math.floor(at / superBlock);
    exact[block] = Math.max(exact[block] as number, scale - offset);
  }
  const factors = castTensor(tensor("float32", [exact.length], exact), scaleDtype);
  const steps = 2 ** scaleBits - 1;
  const kept = toFloat32(factors);
  if (!kept.every(Number.isFinite)) {
    throw new TunesmithError(
      "config-invalid",
      `scales of up to ${Math.max(...exact)} do not fit ${scaleDtype}`,
      {
        fix: "choose scaleDtype float32",
      },
    );
  }
  const codes = Uint8Array.from(scales, (scale, at) => {
    const factor = kept[Math.floor(at / superBlock)] as number;
    return factor > 0 ? Math.min(steps, Math.round(((scale - offset) / factor) * steps)) : 0;
  });
  const values = scaleValues(codes, kept, offset, layout);
  return { scaleCodes: packCodes(codes, scaleBits), factors, offset, values };
}

/** In the order in which a graph computes them, each step rounded to float32. */
function scaleValues(
  codes: Uint8Array,
  factors: Float32Array,
  offset: number,
  { superBlock, scaleBits }: NormalFloatLayout,
): Float32Array {
  const steps = 2 ** scaleBits - 1;
  return Float32Array.from(codes, (code, at) => {
    const part = Math.fround(code / steps);
    return Math.fround(part * (factors[Math.floor(at / superBlock)] as number)) + offset;
  });
}

/** Where each level gives way to the next. */
function boundsOf(levels: Float32Array): Float64Array {
  const bounds = new Float64Array(levels.length - 1);
  for (let at = 0; at < bounds.length; at++)
    bounds[at] = ((levels[at] as number) + (levels[at + 1] as number)) / 2;
  return bounds;
}

const bounds = new Map<CodeBits, Float64Array>();

/** A code for each value: of the level nearest to it. */
export function nearestLevel(bits: CodeBits): (value: number) => number {
  const between = bounds.get(bits) ?? boundsOf(normalFloatLevels(bits));
  bounds.set(bits, between);
  return (value) => {
    let low = 0;
    let high = between.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (value > (between[middle] as number)) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}

/** Codes of numbers whose blocks have these scales. */
function codesForScales(
  weight: Float32Array,
  scales: Float32Array,
  { bits, blockSize }: NormalFloatLayout,
): Uint8Array {
  const codes = new Uint8Array(weight.length);
  const nearest = nearestLevel(bits);
  for (let block = 0; block < scales.length; block++) {
    const scale = scales[block] as number;
    const inverse = scale > 0 ? 1 / scale : 0;
    const end = (block + 1) * blockSize;
    for (let at = block * blockSize; at < end; at++) codes[at] = nearest((weight[at] as number) * inverse);
  }
  return codes;
}

function valuesOfCodes(
  codes: Uint8Array,
  scales: Float32Array,
  { bits, blockSize }: NormalFloatLayout,
): Float32Array {
  const levels = normalFloatLevels(bits);
  const values = new Float32Array(codes.length);
  for (let block = 0; block < scales.length; block++) {
    const end = (block + 1) * blockSize;
    for (let at = block * blockSize; at < end; at++)
      values[at] = (levels[codes[at] as number] as number) * (scales[block] as number);
  }
  return values;
}

/**
 * NormalFloat with scales that are quantised themselves. Values are coded with the scales as they are kept, so that one above
 * its scale goes to the outermost level.
 *
 * @param weight Row-major; blocks are of consecutive numbers. Throws `shape-mismatch` where the last is not full.
 * @example
 * ```ts
 * import { dequantizeNormalFloat, quantizeNormalFloat } from "tunesmith/tensor";
 * const layout = { bits: 3, blockSize: 16, scaleBits: 8, superBlock: 256, scaleDtype: "float16" } as const;
 * const weight = Float32Array.from({ length: 32 }, (_, at) => Math.sin(at));
 * console.log(dequantizeNormalFloat(quantizeNormalFloat(weight, layout), layout, 32));
 * ```
 */
export function quantizeNormalFloat(weight: Float32Array, layout: NormalFloatLayout): NormalFloatMatrix {
  const { scales, codes } = coded(weight, layout);
  const { scaleCodes, factors, offset } = scales;
  return { scaleCodes, factors, offset, codes: packCodes(codes, layout.bits) };
}

/** The numbers that `quantizeNormalFloat` leaves of a weight, without the detour over bytes. */
export function roundToNormalFloat(weight: Float32Array, layout: NormalFloatLayout): Float32Array {
  const { scales, codes } = coded(weight, layout);
  return valuesOfCodes(codes, scales.values, layout);
}

function coded(weight: Float32Array, layout: NormalFloatLayout) {
  const { blockSize } = layout;
  if (weight.length % blockSize !== 0 || weight.length === 0) {
    throw new TunesmithError(
      "shape-mismatch",
      `${weight.length} numbers do not divide into blocks of ${blockSize}`,
      { fix: "choose another blockSize" },
    );
  }
  const scales = quantizeScales(blockMaxima(weight, blockSize), layout);
  return { scales, codes: codesForScales(weight, scales.values, layout) };
}

/** The scales of `count / blockSize` blocks as they act. */
export function dequantizeScales(
  { scaleCodes, factors, offset }: Pick<NormalFloatMatrix, "scaleCodes" | "factors" | "offset">,
  layout: NormalFloatLayout,
  count: number,
): Float32Array {
  const codes = unpackCodes(scaleCodes, count / layout.blockSize, layout.scaleBits);
  return scaleValues(codes, toFloat32(factors), offset, layout);
}

/** The `count` numbers behind the codes. */
export function dequantizeNormalFloat(
  matrix: NormalFloatMatrix,
  layout: NormalFloatLayout,
  count: number,
): Float32Array {
  const scales = dequantizeScales(matrix, layout, count);
  return valuesOfCodes(unpackCodes(matrix.codes, count, layout.bits), scales, layout);
}
