import {
  applyBlock,
  applyReflections,
  emptyReflections,
  makeReflection,
  type Reflections,
} from "./householder.js";
import { checkMatrix, identity, type Matrix, type Matrix64, maxAbs, toFloat64, zeros } from "./matrix.js";
import { axpy, dot, scale } from "./vector.js";

/** `A = Q R`, thin: with r = min(m, n), Q is `[m, r]` with orthonormal columns, R is `[r, n]` upper triangular. */
export interface Qr {
  readonly q: Matrix64;
  readonly r: Matrix64;
}

/**
 * Thin QR decomposition by blocked Householder reflections. The diagonal of R is non-negative, which makes the
 * result unique for a matrix of full column rank. (ml-matrix 6.15 needs 4.4 s for 768x768; bench/linalg.mjs has ours.)
 *
 * @param a `[m, n]`, any shape, any rank
 * @throws `numerical-failure` when an entry is not finite.
 * @example
 * ```ts
 * import { matrix, qr } from "tunesmith/runtime";
 * const { q, r } = qr(matrix([[3, 1], [4, 2]])); // r[0][0] = 5
 * ```
 */
export function qr(a: Matrix): Qr {
  checkMatrix(a, "qr");
  const { reflections, r } = householderQr(a);
  const rank = Math.min(a.rows, a.cols);
  const q = identity(a.rows, rank);
  applyReflections(reflections, q.data, rank);
  for (let k = 0; k < rank; k++) {
    if ((r.data[k * a.cols + k] as number) >= 0) continue;
    scale(a.cols - k, -1, r.data, k * a.cols + k);
    for (let i = 0; i < a.rows; i++) (q.data[i * rank + k] as number) *= -1;
  }
  return { q, r };
}

const BLOCK = 32;

/** QR with Q left as reflections; the diagonal of `r` `[min(m, n), n]` may have either sign. */
export function householderQr(a: Matrix): { reflections: Reflections; r: Matrix64 } {
  const { rows, cols } = a;
  const count = Math.min(rows, cols);
  const work = toFloat64(a);
  const largest = maxAbs(work) || 1;
  scale(work.data.length, 1 / largest, work.data, 0);
  const reflections = emptyReflections(rows, count, 0);
  for (let start = 0; start < count; start += BLOCK) {
    const end = Math.min(count, start + BLOCK);
    factorPanel(work, reflections, start, end);
    applyBlock(reflections, start, end, work.data, cols, end, cols, true);
  }
  const r = zeros(count, cols);
  for (let i = 0; i < count; i++)
    for (let j = i; j < cols; j++) r.data[i * cols + j] = (work.data[i * cols + j] as number) * largest;
  return { reflections, r };
}

/** Reduces columns `start ..< end` to triangular form in a transposed copy, where each column is contiguous. */
function factorPanel(work: Matrix64, reflections: Reflections, start: number, end: number): void {
  const { rows, cols, data } = work;
  const { vectors, tau } = reflections;
  for (let j = start; j < end; j++) {
    for (let i = start; i < rows; i++) vectors[j * rows + i] = data[i * cols + j] as number;
  }
  for (let k = start; k < end; k++) {
    const v = k * rows + k;
    const length = rows - k;
    const made = makeReflection(vectors, v, length);
    tau[k] = made.tau;
    for (let j = k + 1; j < end; j++) {
      const column = j * rows + k;
      axpy(length, -made.tau * dot(length, vectors, v, vectors, column), vectors, v, vectors, column);
    }
    // Above the diagonal lie finished entries of R; move them out, the reflection's vector is zero there.
    for (let i = start; i < k; i++) {
      data[i * cols + k] = vectors[k * rows + i] as number;
      vectors[k * rows + i] = 0;
    }
    data[k * cols + k] = made.beta;
  }
}
