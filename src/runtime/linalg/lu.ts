import { TunesmithError } from "../../errors/index.js";
import { checkMatrix, type Matrix, type Matrix64, maxAbs, toFloat64, zeros } from "./matrix.js";
import { axpy } from "./vector.js";

/** `A[permutation[i], :] = (L U)[i, :]` with r = min(m, n): L `[m, r]` unit lower, U `[r, n]` upper triangular. */
export interface Lu {
  readonly permutation: Int32Array;
  readonly l: Matrix64;
  readonly u: Matrix64;
}

/**
 * LU decomposition with partial pivoting, of any shape. Singular matrices have one too (a zero on the diagonal
 * of U); solving with it is what fails.
 *
 * @param a `[m, n]`
 * @throws `numerical-failure` when an entry is not finite.
 * @example
 * ```ts
 * import { lu, matrix } from "tunesmith/runtime";
 * const { permutation, l, u } = lu(matrix([[0, 1], [2, 3]])); // permutation = [1, 0]
 * ```
 */
export function lu(a: Matrix): Lu {
  checkMatrix(a, "lu");
  const { rows: m, cols: n } = a;
  const r = Math.min(m, n);
  const { data } = toFloat64(a);
  const permutation = Int32Array.from({ length: m }, (_, i) => i);
  for (let k = 0; k < r; k++) {
    let pivot = k;
    for (let i = k + 1; i < m; i++) {
      if (Math.abs(data[i * n + k] as number) > Math.abs(data[pivot * n + k] as number)) pivot = i;
    }
    if (pivot !== k) {
      const row = data.slice(k * n, (k + 1) * n);
      data.copyWithin(k * n, pivot * n, (pivot + 1) * n);
      data.set(row, pivot * n);
      [permutation[k], permutation[pivot]] = [permutation[pivot] as number, permutation[k] as number];
    }
    const diagonal = data[k * n + k] as number;
    if (diagonal === 0) continue;
    for (let i = k + 1; i < m; i++) {
      const factor = (data[i * n + k] as number) / diagonal;
      data[i * n + k] = factor;
      axpy(n - k - 1, -factor, data, k * n + k + 1, data, i * n + k + 1);
    }
  }
  const l = zeros(m, r);
  const u = zeros(r, n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      if (j < i && j < r) l.data[i * r + j] = data[i * n + j] as number;
      else if (i < r) u.data[i * n + j] = data[i * n + j] as number;
    }
    if (i < r) l.data[i * r + i] = 1;
  }
  return { permutation, l, u };
}

/** `A[permutation[i], :] = (L diag(d) U)[i, :]`, both triangles with unit diagonal. */
export interface Ldu extends Lu {
  readonly d: Float64Array;
}

/**
 * LDU decomposition with partial pivoting: `lu` with the diagonal of U taken out (as LoLDU uses, arXiv 2410.13618).
 *
 * @param a `[m, n]`
 * @throws `numerical-failure` when a pivot vanishes, so that U has no unit diagonal.
 * @example
 * ```ts
 * import { ldu, matrix } from "tunesmith/runtime";
 * const { d } = ldu(matrix([[4, 2], [2, 3]])); // [4, 2]
 * ```
 */
export function ldu(a: Matrix): Ldu {
  const { permutation, l, u } = lu(a);
  const d = new Float64Array(u.rows);
  for (let k = 0; k < u.rows; k++) {
    const pivot = u.data[k * u.cols + k] as number;
    if (pivot === 0) throw singular("ldu", a, k);
    d[k] = pivot;
    for (let j = k; j < u.cols; j++) (u.data[k * u.cols + j] as number) /= pivot;
  }
  return { permutation, l, d, u };
}

/** The inverse of a permutation: `out[p[i]] = i`. */
export function inversePermutation(p: Int32Array): Int32Array {
  const out = new Int32Array(p.length);
  p.forEach((to, from) => {
    out[to] = from;
  });
  return out;
}

/** Throws `numerical-failure` when a pivot of U is zero to working precision. */
export function checkNonSingular(operation: string, a: Matrix, u: Matrix64): void {
  const floor = maxAbs(a) * Number.EPSILON * u.rows;
  for (let k = 0; k < u.rows; k++) {
    if (!(Math.abs(u.data[k * u.cols + k] as number) > floor)) throw singular(operation, a, k);
  }
}

function singular(operation: string, a: Matrix, pivot: number): TunesmithError {
  return new TunesmithError(
    "numerical-failure",
    `${operation}: the ${a.rows}x${a.cols} matrix is singular to working precision (pivot ${pivot})`,
    { fix: "add a small multiple of the identity, or use pseudoInverse or leastSquares", details: { pivot } },
  );
}
