import { gemm, type Matrix, scaleColumns, symmetricEigen } from "../../runtime/linalg/index.js";
import { mt19937 } from "../../runtime/random/index.js";

/** Steps of PEFT's power iteration. */
const STEPS = 15;

/** x of unit length, or zeros. */
function unit(x: Float64Array, epsilon = 0): Float64Array {
  const norm = Math.hypot(...x) + epsilon;
  return norm > 0 ? x.map((value) => value / norm) : x;
}

const column = (data: Float64Array): Matrix => ({ rows: data.length, cols: 1, data });

/**
 * The input direction `[in]` that b·a stretches most (up to its sign): its first right singular vector, from matrices of the
 * rank's size. Zeros where b·a is.
 */
export function mainDirection(a: Matrix, b: Matrix): Float64Array {
  const { values, vectors } = symmetricEigen(gemm(b, b, { transposeA: true }));
  const roots = values.map((value) => Math.sqrt(Math.max(0, value)));
  // (b·a)ᵀ·(b·a) = nᵀ·n.
  const n = gemm(scaleColumns(vectors, roots), a, { transposeA: true });
  const inner = symmetricEigen(gemm(n, n, { transposeB: true }));
  const first = Float64Array.from({ length: n.rows }, (_, row) => Number(inner.vectors.data[row * n.rows]));
  return unit(gemm(n, column(first), { transposeA: true }).data);
}

/** As PEFT finds it: 15 steps of power iteration from PyTorch's normal numbers of a seed, converged or not. */
export function iteratedDirection(a: Matrix, b: Matrix, seed: number): Float64Array {
  const inner = gemm(b, b, { transposeA: true });
  let v = unit(Float64Array.from(mt19937(seed).normal(a.cols)), 1e-8);
  for (let step = 0; step < STEPS; step++)
    v = unit(gemm(a, gemm(inner, gemm(a, column(v))), { transposeA: true }).data, 1e-8);
  return v;
}
