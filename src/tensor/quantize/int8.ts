/** A matrix in 8 bits: `codes[row, column] · scales[row]`. */
export interface Int8Matrix {
  /** `[rows, columns]`, in [-127, 127]. */
  readonly codes: Int8Array;
  /** `[rows]` */
  readonly scales: Float32Array;
}

/** The step of each row: its largest magnitude over 127. A row of zeros has step 1. */
export function int8Scales(weight: Float32Array, rows: number, columns: number): Float32Array {
  const scales = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    let largest = 0;
    for (let at = row * columns; at < (row + 1) * columns; at++)
      largest = Math.max(largest, Math.abs(weight[at] as number));
    scales[row] = largest > 0 ? largest / 127 : 1;
  }
  return scales;
}

/**
 * Symmetric rounding to 8 bits with one step per row (output channel), half to even as ONNX' QuantizeLinear.
 *
 * @param weight `[rows, columns]`
 * @example
 * ```ts
 * import { dequantizeInt8, quantizeInt8 } from "tunesmith/tensor";
 * const packed = quantizeInt8(Float32Array.of(1, -0.5, 0.25, 0.1), 2, 2);
 * console.log(dequantizeInt8(packed, 2, 2));
 * ```
 */
export function quantizeInt8(weight: Float32Array, rows: number, columns: number): Int8Matrix {
  const scales = int8Scales(weight, rows, columns);
  const codes = new Int8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const scale = scales[row] as number;
    for (let at = row * columns; at < (row + 1) * columns; at++)
      codes[at] = Math.max(-127, Math.min(127, roundHalfEven((weight[at] as number) / scale)));
  }
  return { codes, scales };
}

/** The numbers behind the codes, `[rows, columns]`. */
export function dequantizeInt8({ codes, scales }: Int8Matrix, rows: number, columns: number): Float32Array {
  const out = new Float32Array(rows * columns);
  for (let at = 0; at < out.length; at++)
    out[at] = (codes[at] as number) * (scales[Math.floor(at / columns)] as number);
  return out;
}

/** The nearest integer; of two, the even one. */
export function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}
