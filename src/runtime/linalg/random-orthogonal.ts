import { makeReflection } from "./householder.js";
import { type Matrix64, zeros } from "./matrix.js";

/**
 * Columns of a random orthogonal matrix `[n, n]`, uniform in Haar's measure, without the matrix: what the QR decomposition of a normal
 * matrix, with a positive diagonal in R, has in those columns (Stewart 1980). Takes n²/2 numbers and 2·n²·columns operations.
 *
 * @param columns indices below n
 * @param normals `count` standard normal numbers of reflection `index`; the same ones give the same matrix
 * @returns `[columns, n]`: row k is column `columns[k]`
 * @example
 * ```ts
 * import { orthogonalColumns, rng } from "tunesmith/runtime";
 * const normals = (index: number, count: number) => rng(7, index).fillNormal(new Float64Array(count));
 * const basis = orthogonalColumns(64, [3, 5], normals); // 2 x 64, orthonormal rows
 * ```
 */
export function orthogonalColumns(
  n: number,
  columns: ArrayLike<number>,
  normals: (index: number, count: number) => Float64Array,
): Matrix64 {
  const out = zeros(columns.length, n);
  const wanted = Array.from(columns);
  for (let k = Math.max(-1, ...wanted); k >= 0; k--) {
    const v = normals(k, n - k);
    const { beta, tau } = makeReflection(v, 0, n - k);
    wanted.forEach((column, row) => {
      if (column < k) return;
      const target = out.data.subarray(row * n + k, (row + 1) * n);
      if (column === k) target[0] = Math.sign(beta) || 1;
      let along = 0;
      for (let at = 0; at < target.length; at++) along += (v[at] as number) * (target[at] as number);
      for (let at = 0; at < target.length; at++)
        target[at] = (target[at] as number) - tau * along * (v[at] as number);
    });
  }
  return out;
}
