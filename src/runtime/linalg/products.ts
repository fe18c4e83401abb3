import { checkMatrix, type Matrix, type Matrix64, shapeError, zeros } from "./matrix.js";

/**
 * Kronecker product: block (i, j) of the result is `a[i, j] * b`.
 *
 * @param a `[m, n]`
 * @param b `[p, q]`
 * @returns `[m p, n q]`
 * @example
 * ```ts
 * import { kronecker, matrix } from "tunesmith/runtime";
 * const k = kronecker(matrix([[1, 2]]), matrix([[1], [3]])); // [[1, 2], [3, 6]]
 * ```
 */
export function kronecker(a: Matrix, b: Matrix): Matrix64 {
  checkMatrix(a, "kronecker");
  checkMatrix(b, "kronecker");
  const out = zeros(a.rows * b.rows, a.cols * b.cols);
  let p = 0;
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < b.rows; k++) {
      for (let j = 0; j < a.cols; j++) {
        const factor = a.data[i * a.cols + j] as number;
        for (let l = 0; l < b.cols; l++) out.data[p++] = factor * (b.data[k * b.cols + l] as number);
      }
    }
  }
  return out;
}

/**
 * Khatri-Rao product: column j of the result is the Kronecker product of the two columns j.
 *
 * @param a `[m, n]`
 * @param b `[p, n]`
 * @returns `[m p, n]`
 * @throws `shape-mismatch` when the column counts differ.
 * @example
 * ```ts
 * import { khatriRao, matrix } from "tunesmith/runtime";
 * const k = khatriRao(matrix([[1, 2]]), matrix([[1, 1], [3, 4]])); // [[1, 2], [3, 8]]
 * ```
 */
export function khatriRao(a: Matrix, b: Matrix): Matrix64 {
  checkMatrix(a, "khatriRao");
  checkMatrix(b, "khatriRao");
  if (a.cols !== b.cols) shapeError("khatriRao", `${a.cols} and ${b.cols} columns`);
  const out = zeros(a.rows * b.rows, a.cols);
  let p = 0;
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < b.rows; k++) {
      for (let j = 0; j < a.cols; j++)
        out.data[p++] = (a.data[i * a.cols + j] as number) * (b.data[k * b.cols + j] as number);
    }
  }
  return out;
}
