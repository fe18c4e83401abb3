import { dequantizeByMap, dynamicMap, quantizeByMap } from "./dynamic.js";

/** The 16 numbers of the NormalFloat type (QLoRA, arXiv 2305.14314), as bitsandbytes has them. */
export const NF4: readonly number[] = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
  -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
  0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];

/** A matrix in NormalFloat: blocks of consecutive numbers, row by row, scaled by their largest magnitude. */
export interface Nf4Matrix {
  /** `[count / 2]`, high nibble first. */
  readonly codes: Uint8Array;
  /** `[count / blockSize]` */
  readonly maxima: Float32Array;
}

/** Block maxima that are quantised themselves: `map[codes]·scales + offset`. */
export interface Nf4Maxima {
  readonly codes: Uint8Array;
  /** One per 256 codes. */
  readonly scales: Float32Array;
  readonly offset: number;
}

/** Where one number of the book gives way to the next. */
const bounds = Float32Array.from(
  { length: 15 },
  (_, at) => ((NF4[at] as number) + (NF4[at + 1] as number)) / 2,
);

/** Code of the number of the book that is nearest to a value in [-1, 1]. */
export function nearestNf4(value: number): number {
  let low = 0;
  let high = 15;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value > (bounds[middle] as number)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Largest magnitude of each block. */
export function blockMaxima(weight: Float32Array, blockSize: number): Float32Array {
  const maxima = new Float32Array(Math.ceil(weight.length / blockSize));
  for (let block = 0; block < maxima.length; block++) {
    const end = Math.min(weight.length, (block + 1) * blockSize);
    let most = 0;
    for (let at = block * blockSize; at < end; at++) most = Math.max(most, Math.abs(weight[at] as number));
    maxima[block] = most;
  }
  return maxima;
}

/**
 * NormalFloat codes as bitsandbytes' `quantize_4bit` and ONNX Runtime's MatMulBnb4 pack them.
 *
 * @param weight Row-major; an even number of values.
 * @param options.blockSize Values that share a scale. Default 64.
 * @param options.maxima Scales to use; default: each block's largest magnitude.
 */
export function quantizeNf4(
  weight: Float32Array,
  {
    blockSize = 64,
    maxima = blockMaxima(weight, blockSize),
  }: { blockSize?: number; maxima?: Float32Array } = {},
): Nf4Matrix {
  const codes = new Uint8Array(weight.length / 2);
  for (let at = 0; at < weight.length; at++) {
    const scale = maxima[Math.floor(at / blockSize)] as number;
    const code = nearestNf4(scale > 0 ? (weight[at] as number) / scale : 0);
    codes[at >> 1] = (codes[at >> 1] as number) | (at % 2 === 0 ? code << 4 : code);
  }
  return { codes, maxima };
}

/** The numbers behind the codes. */
export function dequantizeNf4({ codes, maxima }: Nf4Matrix, blockSize = 64): Float32Array {
  const out = new Float32Array(codes.length * 2);
  for (let at = 0; at < out.length; at++) {
    const byte = codes[at >> 1] as number;
    const value = NF4[at % 2 === 0 ? byte >> 4 : byte & 15] as number;
    out[at] = value * (maxima[Math.floor(at / blockSize)] as number);
  }
  return out;
}

const DOUBLE_BLOCK = 256;

/** Double quantisation of QLoRA: maxima less their mean in 8 bits of the dynamic data type, one scale per 256. */
export function quantizeMaxima(maxima: Float32Array): Nf4Maxima {
  const offset = Math.fround(maxima.reduce((sum, value) => sum + value, 0) / Math.max(1, maxima.length));
  const codes = new Uint8Array(maxima.length);
  const scales = new Float32Array(Math.ceil(maxima.length / DOUBLE_BLOCK));
  quantizeByMap(
    maxima.map((value) => value - offset),
    dynamicMap(true),
    DOUBLE_BLOCK,
    codes,
    scales,
  );
  return { codes, scales, offset };
}

/** The maxima behind their codes. */
export function dequantizeMaxima({ codes, scales, offset }: Nf4Maxima): Float32Array {
  const out = new Float32Array(codes.length);
  dequantizeByMap(codes, dynamicMap(true), DOUBLE_BLOCK, scales, out);
  return out.map((value) => value + offset);
}
