import { block, gemm, gemmAdd } from "./gemm.js";
import { checkNonSingular, lu } from "./lu.js";
import {
  checkMatrix,
  checkSquare,
  identity,
  type Matrix,
  type Matrix64,
  scaleColumns,
  shapeError,
  transpose,
  zeros,
} from "./matrix.js";
import { svd } from "./svd.js";
import { axpy, scale } from "./vector.js";

/**
 * The X with `A X = B`, by LU with partial pivoting.
 *
 * @param a `[n, n]`
 * @param b `[n, k]`
 * @throws `numerical-failure` when A is singular to working precision.
 * @example
 * ```ts
 * import { matrix, solve } from "tunesmith/runtime";
 * const x = solve(matrix([[2, 0], [0, 4]]), matrix([[2], [2]])); // [[1], [0.5]]
 * ```
 */
export function solve(a: Matrix, b: Matrix): Matrix64 {
  checkSquare(a, "solve");
  checkMatrix(b, "solve");
  if (b.rows !== a.rows) shapeError("solve", `A is ${a.rows}x${a.cols} but B has ${b.rows} rows`);
  const { permutation, l, u } = lu(a);
  checkNonSingular("solve", a, u);
  const x = zeros(b.rows, b.cols);
  permutation.forEach((from, i) => {
    x.data.set(b.data.subarray(from * b.cols, (from + 1) * b.cols), i * b.cols);
  });
  solveLower(l, x);
  solveUpper(u, x);
  return x;
}

// Rows solved between two matrix products, which do the rest of the work.
const BLOCK = 32;

/** Overwrites `x` with `L^-1 x` for lower triangular L `[n, n]`. */
export function solveLower(l: Matrix64, x: Matrix64): void {
  const { rows: n, cols } = x;
  for (let start = 0; start < n; start += BLOCK) {
    const end = Math.min(n, start + BLOCK);
    const target = { data: x.data, offset: start * cols, rowStride: cols };
    gemmAdd(end - start, cols, start, -1, block(l.data, n, start * n), block(x.data, cols), target);
    for (let i = start; i < end; i++) {
      for (let j = start; j < i; j++)
        axpy(cols, -(l.data[i * n + j] as number), x.data, j * cols, x.data, i * cols);
      scale(cols, 1 / (l.data[i * n + i] as number), x.data, i * cols);
    }
  }
}

/** Overwrites `x` with `U^-1 x` for upper triangular U `[n, n]`. */
export function solveUpper(u: Matrix64, x: Matrix64): void {
  const { rows: n, cols } = x;
  for (let end = n; end > 0; end -= BLOCK) {
    const start = Math.max(0, end - BLOCK);
    const target = { data: x.data, offset: start * cols, rowStride: cols };
    const solved = block(x.data, cols, end * cols);
    gemmAdd(end - start, cols, n - end, -1, block(u.data, n, start * n + end), solved, target);
    for (let i = end - 1; i >= start; i--) {
      for (let j = i + 1; j < end; j++)
        axpy(cols, -(u.data[i * n + j] as number), x.data, j * cols, x.data, i * cols);
      scale(cols, 1 / (u.data[i * n + i] as number), x.data, i * cols);
    }
  }
}

/**
 * The inverse of a square matrix.
 *
 * @param a `[n, n]`
 * @throws `numerical-failure` when A is singular to working precision.
 * @example
 * ```ts
 * import { inverse, matrix } from "tunesmith/runtime";
 * const b = inverse(matrix([[2, 0], [0, 4]])); // [[0.5, 0], [0, 0.25]]
 * ```
 */
export function inverse(a: Matrix): Matrix64 {
  return solve(a, identity(a.rows));
}

/**
 * The Moore-Penrose pseudo-inverse, from the SVD.
 *
 * @param a `[m, n]`, any shape and rank
 * @param tolerance singular values below `tolerance * s[0]` count as zero; default `max(m, n) * 2^-52`
 * @returns `[n, m]`
 * @example
 * ```ts
 * import { matrix, pseudoInverse } from "tunesmith/runtime";
 * const p = pseudoInverse(matrix([[1, 0], [0, 0]])); // [[1, 0], [0, 0]]
 * ```
 */
export function pseudoInverse(a: Matrix, tolerance?: number): Matrix64 {
  const { u, weights, v } = invertedSvd(a, tolerance);
  return gemm(scaleColumns(v, weights), u, { transposeB: true });
}

/**
 * The X of least norm among those minimising `|A X - B|`, from the SVD: any shape, any rank.
 *
 * @param a `[m, n]`
 * @param b `[m, k]`
 * @param tolerance singular values below `tolerance * s[0]` count as zero; default `max(m, n) * 2^-52`
 * @returns `[n, k]`
 * @example
 * ```ts
 * import { leastSquares, matrix } from "tunesmith/runtime";
 * const x = leastSquares(matrix([[1], [1]]), matrix([[1], [3]])); // [[2]]
 * ```
 */
export function leastSquares(a: Matrix, b: Matrix, tolerance?: number): Matrix64 {
  checkMatrix(b, "leastSquares");
  if (b.rows !== a.rows) shapeError("leastSquares", `A has ${a.rows} rows but B has ${b.rows}`);
  const { u, weights, v } = invertedSvd(a, tolerance);
  return gemm(scaleColumns(v, weights), gemm(u, b, { transposeA: true }));
}

function invertedSvd(a: Matrix, tolerance = Math.max(a.rows, a.cols) * Number.EPSILON) {
  const { u, s, vt } = svd(a);
  const floor = tolerance * (s[0] ?? 0);
  return { u, weights: s.map((value) => (value > floor ? 1 / value : 0)), v: transpose(vt) };
}
