import {
  gemm,
  inverse,
  type Matrix,
  type Matrix64,
  qr,
  slice,
  symmetricEigen,
  zeros,
} from "../../runtime/linalg/index.js";

/** One matrix over the other. */
function stacked(matrices: readonly Matrix[], cols: number): Matrix64 {
  const all = zeros(
    matrices.reduce((sum, { rows }) => sum + rows, 0),
    cols,
  );
  let at = 0;
  for (const { data } of matrices) {
    all.data.set(data, at);
    at += data.length;
  }
  return all;
}

/**
 * V `[n, n]` of a joint decomposition Wᵢ = Uᵢ·diag(λᵢ)·Vᵀ of matrices `[·, n]`: that of the higher-order generalised SVD, from
 * the eigenvectors of the mean of (QᵢᵀQᵢ + ridge·I)⁻¹ with Q·R the matrices on top of each other; with fewer rows than
 * columns in all, their right singular vectors.
 */
export function commonBasis(matrices: readonly Matrix[], ridge: number): Matrix64 {
  const n = matrices[0]?.cols ?? 0;
  const all = stacked(matrices, n);
  if (all.rows < n) return symmetricEigen(gemm(all, all, { transposeA: true })).vectors;
  const { q, r } = qr(all);
  const mean = zeros(n, n);
  let start = 0;
  for (const { rows } of matrices) {
    const part = slice(q, start, start + rows);
    start += rows;
    const gram = gemm(part, part, { transposeA: true });
    for (let at = 0; at < n; at++) gram.data[at * n + at] = (gram.data[at * n + at] as number) + ridge;
    inverse(gram).data.forEach((value, at) => {
      mean.data[at] = (mean.data[at] as number) + value / matrices.length;
    });
  }
  return gemm(r, symmetricEigen(mean).vectors, { transposeA: true });
}
