import { TunesmithError } from "../../errors/index.js";
import { checkSquare, type Matrix, type Matrix64, zeros } from "./matrix.js";
import { dot } from "./vector.js";

/**
 * The lower triangular L with `A = L L'` of a symmetric positive definite matrix; reads the lower triangle.
 *
 * @param a `[n, n]`
 * @throws `numerical-failure` naming the pivot when A is not positive definite.
 * @example
 * ```ts
 * import { cholesky, matrix } from "tunesmith/runtime";
 * const l = cholesky(matrix([[4, 2], [2, 2]])); // [[2, 0], [1, 1]]
 * ```
 */
export function cholesky(a: Matrix): Matrix64 {
  checkSquare(a, "cholesky");
  const n = a.rows;
  const { data, ...shape } = zeros(n, n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      data[i * n + j] =
        ((a.data[i * n + j] as number) - dot(j, data, i * n, data, j * n)) / (data[j * n + j] as number);
    }
    const pivot = (a.data[i * n + i] as number) - dot(i, data, i * n, data, i * n);
    if (!(pivot > 0)) {
      throw new TunesmithError(
        "numerical-failure",
        `cholesky: the matrix is not positive definite (pivot ${i} is ${pivot})`,
        {
          fix: "add a small multiple of the identity",
          details: { pivot: i },
        },
      );
    }
    data[i * n + i] = Math.sqrt(pivot);
  }
  return { ...shape, data };
}
