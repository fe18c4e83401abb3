import { TunesmithError } from "../../errors/index.js";
import { gemm } from "./gemm.js";
import { checkMatrix, type Matrix, type Matrix64, shapeError, zeros } from "./matrix.js";

/**
 * Euclidean distances between the rows of two matrices.
 *
 * @param a `[m, d]`
 * @param b `[n, d]`; default `a`
 * @returns `[m, n]`
 * @throws `shape-mismatch` when the widths differ.
 * @example
 * ```ts
 * import { matrix, pairwiseDistances } from "tunesmith/runtime";
 * const d = pairwiseDistances(matrix([[0, 0], [3, 4]])); // [[0, 5], [5, 0]]
 * ```
 */
export function pairwiseDistances(a: Matrix, b: Matrix = a): Matrix64 {
  checkMatrix(a, "pairwiseDistances");
  checkMatrix(b, "pairwiseDistances");
  if (a.cols !== b.cols) shapeError("pairwiseDistances", `rows have ${a.cols} and ${b.cols} entries`);
  const out = zeros(a.rows, b.rows);
  // Differences, not |a|^2 + |b|^2 - 2ab: near neighbours must not cancel.
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < b.rows; j++) {
      let sum = 0;
      for (let k = 0; k < a.cols; k++)
        sum += ((a.data[i * a.cols + k] as number) - (b.data[j * b.cols + k] as number)) ** 2;
      out.data[i * b.rows + j] = Math.sqrt(sum);
    }
  }
  return out;
}

/**
 * Indices of the k nearest other rows of every row, nearest first, lower index first among equals.
 *
 * @param a `[n, d]`
 * @returns row-major `[n, k]`
 * @throws `config-invalid` when k is not an integer from 1 to n - 1.
 */
export function nearestNeighbours(a: Matrix, k: number): Int32Array {
  const n = a.rows;
  checkNeighbours(k, n - 1);
  const distances = pairwiseDistances(a).data;
  const out = new Int32Array(n * k);
  for (let i = 0; i < n; i++) {
    const others = Array.from({ length: n }, (_, j) => j).filter((j) => j !== i);
    others.sort((p, q) => (distances[i * n + p] as number) - (distances[i * n + q] as number) || p - q);
    out.set(others.slice(0, k), i * k);
  }
  return out;
}

/**
 * kNN affinity (LAME, arXiv 2201.05718): 1 where row j is among the k nearest of row i, else 0. Directed.
 *
 * @param a `[n, d]`
 * @returns `[n, n]`
 * @throws `config-invalid` when k is not an integer from 1 to n - 1.
 */
export function knnAffinity(a: Matrix, k: number): Matrix64 {
  const out = zeros(a.rows, a.rows);
  nearestNeighbours(a, k).forEach((j, p) => {
    out.data[Math.floor(p / k) * a.rows + j] = 1;
  });
  return out;
}

/**
 * RBF affinity (LAME, arXiv 2201.05718): `exp(-D^2 / (2 sigma^2))`, sigma the mean distance of a row to its k-th
 * nearest row, counting itself as the first. When sigma is 0 (coinciding rows), equal rows have 1, others 0.
 *
 * @param a `[n, d]`
 * @param k default 5; limited to n
 * @returns `[n, n]`, ones on the diagonal
 * @throws `config-invalid` when k is not a positive integer.
 * @example
 * ```ts
 * import { matrix, rbfAffinity } from "tunesmith/runtime";
 * const w = rbfAffinity(matrix([[0], [1], [10]]), 2);
 * ```
 */
export function rbfAffinity(a: Matrix, k = 5): Matrix64 {
  checkNeighbours(k, Number.MAX_SAFE_INTEGER);
  const n = a.rows;
  const { data } = pairwiseDistances(a);
  let sigma = 0;
  for (let i = 0; i < n; i++) {
    const sorted = data.slice(i * n, (i + 1) * n).sort();
    sigma += (sorted[Math.min(k, n) - 1] as number) / n;
  }
  const weight = (d: number): number => (d === 0 ? 1 : Math.exp(-(d * d) / (2 * sigma * sigma)));
  return { rows: n, cols: n, data: data.map(weight) };
}

/** Linear affinity `A A'`, `[n, n]`. */
export function linearAffinity(a: Matrix): Matrix64 {
  checkMatrix(a, "linearAffinity");
  return gemm(a, a, { transposeB: true });
}

function checkNeighbours(k: number, most: number): void {
  if (Number.isInteger(k) && k >= 1 && k <= most) return;
  throw new TunesmithError("config-invalid", `k = ${k} neighbours, expected an integer from 1 to ${most}`, {
    fix: "choose another k",
  });
}
