import { block, gemmAdd, transposed } from "./gemm.js";
import { dot, scale } from "./vector.js";

/**
 * The product `Q = H_0 H_1 ... H_{count-1}` of reflections `H_k = I - tau[k] v_k v_k'` on vectors of `length`.
 * Row k of `vectors` is `v_k`, zero before index `k + shift` and one there.
 */
export interface Reflections {
  readonly length: number;
  readonly count: number;
  readonly shift: number;
  readonly vectors: Float64Array;
  readonly tau: Float64Array;
}

/** Room for `count` reflections. */
export function emptyReflections(length: number, count: number, shift: number): Reflections {
  return { length, count, shift, vectors: new Float64Array(count * length), tau: new Float64Array(count) };
}

/**
 * Turns `x[offset ..< offset + n]` into the vector `v` (first entry 1) of the reflection that maps x to
 * `beta e_1` (LAPACK's dlarfg; the data must be scaled so that squares neither overflow nor vanish).
 */
export function makeReflection(x: Float64Array, offset: number, n: number): { beta: number; tau: number } {
  const alpha = x[offset] as number;
  const tail = dot(n - 1, x, offset + 1, x, offset + 1);
  x[offset] = 1;
  if (tail === 0) return { beta: alpha, tau: 0 };
  const beta = -Math.sign(alpha || 1) * Math.sqrt(alpha * alpha + tail);
  scale(n - 1, 1 / (alpha - beta), x, offset + 1);
  return { beta, tau: (beta - alpha) / beta };
}

const BLOCK = 32;

/**
 * `c = Q c`, or `Q' c`, for row-major `c` of `[length, cols]`: blocks of 32 reflections at a time in the
 * compact form `I - V T V'` (Schreiber and Van Loan 1989), so that the work is matrix products.
 */
export function applyReflections(q: Reflections, c: Float64Array, cols: number, transpose = false): void {
  const blocks = Math.ceil(q.count / BLOCK);
  for (let i = 0; i < blocks; i++) {
    const start = (transpose ? i : blocks - 1 - i) * BLOCK;
    applyBlock(q, start, Math.min(q.count, start + BLOCK), c, cols, 0, cols, transpose);
  }
}

/** Applies reflections `start ..< end` as one block to columns `colStart ..< colEnd` of `c` `[length, cols]`. */
export function applyBlock(
  q: Reflections,
  start: number,
  end: number,
  c: Float64Array,
  cols: number,
  colStart: number,
  colEnd: number,
  transpose: boolean,
): void {
  const first = start + q.shift;
  const length = q.length - first;
  const size = end - start;
  const width = colEnd - colStart;
  if (length <= 0 || width <= 0) return;
  const v = start * q.length + first;
  const t = blockFactor(q, start, end);
  const target = { data: c, offset: first * cols + colStart, rowStride: cols };
  const projected = new Float64Array(size * width);
  gemmAdd(size, width, length, 1, block(q.vectors, q.length, v), block(c, cols, target.offset), {
    data: projected,
    offset: 0,
    rowStride: width,
  });
  const mixed = new Float64Array(size * width);
  const factor = transpose ? transposed(t, size) : block(t, size);
  gemmAdd(size, width, size, 1, factor, block(projected, width), {
    data: mixed,
    offset: 0,
    rowStride: width,
  });
  gemmAdd(length, width, size, -1, transposed(q.vectors, q.length, v), block(mixed, width), target);
}

/** The upper triangular T of `H_start ... H_{end-1} = I - V T V'` (LAPACK's dlarft). */
function blockFactor(q: Reflections, start: number, end: number): Float64Array {
  const size = end - start;
  const first = start + q.shift;
  const rows = block(q.vectors, q.length, start * q.length + first);
  const gram = new Float64Array(size * size);
  const columns = transposed(q.vectors, q.length, rows.offset);
  gemmAdd(size, size, q.length - first, 1, rows, columns, { data: gram, offset: 0, rowStride: size });
  const t = new Float64Array(size * size);
  for (let j = 0; j < size; j++) {
    const tau = q.tau[start + j] as number;
    t[j * size + j] = tau;
    for (let i = 0; i < j; i++) {
      let sum = 0;
      for (let p = i; p < j; p++) sum += (t[i * size + p] as number) * (gram[p * size + j] as number);
      t[i * size + j] = -tau * sum;
    }
  }
  return t;
}
