import { bidiagonalSvd } from "./bidiagonal-svd.js";
import { applyReflections, emptyReflections, makeReflection, type Reflections } from "./householder.js";
import {
  checkSquare,
  identity,
  type Matrix,
  type Matrix64,
  maxAbs,
  shapeError,
  toFloat64,
  zeros,
} from "./matrix.js";
import { argMaxAbs, axpy, dot, scale } from "./vector.js";

/** `A = V diag(values) V'`: values descending, the columns of `vectors` `[n, n]` orthonormal. */
export interface SymmetricEigen {
  readonly values: Float64Array;
  readonly vectors: Matrix64;
}

/**
 * Eigen-decomposition of a symmetric matrix `[n, n]`. Values descend; the entry of largest magnitude of every
 * vector is positive. Absolute accuracy is a few units of rounding of the norm of A.
 *
 * Reduces to tridiagonal T, shifts it to be positive definite, and takes the SVD of the bidiagonal Cholesky
 * factor `B'B = T + cI` by divide and conquer: eigenvalues are `s^2 - c`, eigenvectors the right vectors of B.
 *
 * @throws `shape-mismatch` when A is not square or not symmetric to 1e-6 of its largest entry;
 *   `numerical-failure` when an entry is not finite.
 * @example
 * ```ts
 * import { matrix, symmetricEigen } from "tunesmith/runtime";
 * const { values } = symmetricEigen(matrix([[2, 1], [1, 2]])); // [3, 1]
 * ```
 */
export function symmetricEigen(a: Matrix): SymmetricEigen {
  checkSquare(a, "symmetricEigen");
  const n = a.rows;
  const work = toFloat64(a);
  const largest = maxAbs(work);
  if (largest === 0) return { values: new Float64Array(n), vectors: identity(n) };
  scale(n * n, 1 / largest, work.data, 0);
  checkSymmetric(work);
  const { diagonal, offDiagonal, reflections } = tridiagonalise(work);
  const { values, rows } = tridiagonalEigen(diagonal, offDiagonal);
  const order = Array.from(values.keys()).sort((i, j) => (values[j] as number) - (values[i] as number));
  const vectors = zeros(n, n);
  for (let k = 0; k < n; k++) {
    for (let i = 0; i < n; i++) vectors.data[i * n + k] = rows[(order[k] as number) * n + i] as number;
  }
  applyReflections(reflections, vectors.data, n);
  for (let k = 0; k < n; k++) {
    const sign = Math.sign(vectors.data[argMaxAbs(n, vectors.data, k, n) * n + k] as number);
    if (sign < 0) for (let i = 0; i < n; i++) (vectors.data[i * n + k] as number) *= -1;
  }
  return { values: Float64Array.from(order, (i) => (values[i] as number) * largest), vectors };
}

function checkSymmetric(a: Matrix64): void {
  const n = a.rows;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      if (Math.abs((a.data[i * n + j] as number) - (a.data[j * n + i] as number)) <= 1e-6) continue;
      shapeError("symmetricEigen", `the matrix is not symmetric at (${i}, ${j})`);
    }
  }
}

/** Householder reduction `A = Q T Q'`, using and overwriting the lower triangle only. */
function tridiagonalise(a: Matrix64): {
  diagonal: Float64Array;
  offDiagonal: Float64Array;
  reflections: Reflections;
} {
  const { rows: n, data } = a;
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(n - 1);
  const reflections = emptyReflections(n, n - 1, 1);
  const p = new Float64Array(n);
  for (let k = 0; k < n - 1; k++) {
    diagonal[k] = data[k * n + k] as number;
    const v = reflections.vectors.subarray(k * n, (k + 1) * n);
    for (let i = k + 1; i < n; i++) v[i] = data[i * n + k] as number;
    const { beta, tau } = makeReflection(v, k + 1, n - k - 1);
    offDiagonal[k] = beta;
    reflections.tau[k] = tau;
    if (tau === 0) continue;
    p.fill(0, k + 1);
    for (let i = k + 1; i < n; i++) {
      const row = i * n + k + 1;
      const width = i - k - 1;
      (p[i] as number) += dot(width + 1, data, row, v, k + 1);
      axpy(width, v[i] as number, data, row, p, k + 1);
    }
    scale(n - k - 1, tau, p, k + 1);
    axpy(n - k - 1, (-tau / 2) * dot(n - k - 1, p, k + 1, v, k + 1), v, k + 1, p, k + 1);
    for (let i = k + 1; i < n; i++) {
      const vi = v[i] as number;
      const pi = p[i] as number;
      const row = i * n;
      for (let j = k + 1; j <= i; j++)
        (data[row + j] as number) -= vi * (p[j] as number) + pi * (v[j] as number);
    }
  }
  diagonal[n - 1] = data[n * n - 1] as number;
  return { diagonal, offDiagonal, reflections };
}

/** Eigenvalues and (as rows) eigenvectors of a tridiagonal matrix with entries of order one. */
function tridiagonalEigen(
  diagonal: Float64Array,
  offDiagonal: Float64Array,
): { values: Float64Array; rows: Float64Array } {
  const n = diagonal.length;
  let lowest = Number.POSITIVE_INFINITY;
  let highest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < n; i++) {
    const radius = Math.abs(offDiagonal[i] ?? 0) + Math.abs(offDiagonal[i - 1] ?? 0);
    lowest = Math.min(lowest, (diagonal[i] as number) - radius);
    highest = Math.max(highest, (diagonal[i] as number) + radius);
  }
  // Gershgorin: T + cI has eigenvalues of at least 1% of the spread, so that its Cholesky factor exists.
  const shift = 0.01 * (highest - lowest || Math.abs(highest)) - lowest;
  const d = new Float64Array(n);
  const e = new Float64Array(n - 1);
  let carried = 0;
  for (let i = 0; i < n; i++) {
    d[i] = Math.sqrt((diagonal[i] as number) + shift - carried * carried);
    if (i === n - 1) break;
    carried = (offDiagonal[i] as number) / (d[i] as number);
    e[i] = carried;
  }
  const { s, vt } = bidiagonalSvd(d, e);
  return { values: s.map((value) => value * value - shift), rows: vt };
}
