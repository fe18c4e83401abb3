import { gemm } from "./gemm.js";
import { checkMatrix, frobeniusNorm, type Matrix, type Matrix64, shapeError } from "./matrix.js";
import { svd } from "./svd.js";

/** The orthogonal map that brings one set of vectors closest to another. */
export interface Procrustes {
  /** `[n, n]` orthogonal, minimising `|A rotation - B|`. */
  readonly rotation: Matrix64;
  /** The factor that minimises `|scale A rotation - B|` on top; 0 when A is zero. */
  readonly scale: number;
}

/**
 * Orthogonal Procrustes problem (Schoenemann 1966): `rotation = U Vt` for the SVD of `A' B`.
 *
 * @param a `[m, n]`
 * @param b `[m, n]`
 * @throws `shape-mismatch` when the shapes differ; `numerical-failure` when an entry is not finite.
 * @example
 * ```ts
 * import { matrix, procrustes } from "tunesmith/runtime";
 * const { rotation } = procrustes(matrix([[1, 0], [0, 1]]), matrix([[0, 1], [-1, 0]]));
 * ```
 */
export function procrustes(a: Matrix, b: Matrix): Procrustes {
  checkMatrix(a, "procrustes");
  checkMatrix(b, "procrustes");
  if (a.rows !== b.rows || a.cols !== b.cols) {
    shapeError("procrustes", `shapes differ: ${a.rows}x${a.cols} and ${b.rows}x${b.cols}`);
  }
  const { u, s, vt } = svd(gemm(a, b, { transposeA: true }));
  const energy = frobeniusNorm(a) ** 2;
  return {
    rotation: gemm(u, vt),
    scale: energy === 0 ? 0 : s.reduce((sum, value) => sum + value, 0) / energy,
  };
}

/**
 * The nearest matrix with orthonormal columns (rows, when wide): the orthogonal factor of the polar decomposition.
 *
 * @param a `[m, n]`
 * @returns `[m, n]`
 */
export function nearestOrthogonal(a: Matrix): Matrix64 {
  const { u, vt } = svd(a);
  return gemm(u, vt);
}
