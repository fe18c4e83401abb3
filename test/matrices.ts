import { readFileSync } from "node:fs";
import {
  gemm,
  identity,
  type Matrix,
  type Matrix64,
  matrix,
  maxAbs,
  transpose,
} from "../src/runtime/linalg/index.js";
import { rng } from "../src/runtime/random/index.js";

/** Standard normal entries. */
export function randomMatrix(rows: number, cols: number, seed = 0): Matrix64 {
  return { rows, cols, data: rng(seed, "test", rows, cols).fillNormal(new Float64Array(rows * cols)) };
}

/** A random matrix with orthonormal columns times given singular values times another. */
export function withSingularValues(
  rows: number,
  cols: number,
  s: readonly number[],
  orthogonal: (a: Matrix) => Matrix64,
) {
  const u = orthogonal(randomMatrix(rows, s.length, 11));
  const v = orthogonal(randomMatrix(cols, s.length, 12));
  const scaled = { ...u, data: u.data.map((value, p) => value * (s[p % s.length] as number)) };
  return gemm(scaled, v, { transposeB: true });
}

/** Largest absolute difference of two matrices; infinite when the shapes differ, NaN when an entry is NaN. */
export function difference(a: Matrix, b: Matrix): number {
  if (a.rows !== b.rows || a.cols !== b.cols) return Number.POSITIVE_INFINITY;
  return maxAbs({ ...a, data: Float64Array.from(a.data, (value, p) => value - (b.data[p] as number)) });
}

/** How far the columns of `q` are from orthonormal. */
export function columnDefect(q: Matrix): number {
  return difference(gemm(q, q, { transposeA: true }), identity(q.cols));
}

/** How far the rows of `q` are from orthonormal. */
export function rowDefect(q: Matrix): number {
  return columnDefect(transpose(q));
}

/** Numbers computed by NumPy and PyTorch (scripts/reference/make_linalg_fixture.py). */
export const reference = JSON.parse(
  readFileSync(new URL("../src/runtime/linalg/linalg.fixture.json", import.meta.url), "utf8"),
);

export { matrix };
