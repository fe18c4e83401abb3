import { TunesmithError } from "../../errors/index.js";
import { pairwiseDistances } from "./affinity.js";
import { type Matrix, shapeError } from "./matrix.js";

/**
 * Silhouette of every row (Rousseeuw 1987) by Euclidean distance: `(b - a) / max(a, b)`, a the mean distance to
 * its own cluster, b to the nearest other one; 0 for a cluster of one. Their mean is the usual score.
 *
 * @param a `[n, d]`
 * @param labels cluster of every row
 * @returns `[n]`, each in [-1, 1]
 * @throws `shape-mismatch` when labels and rows differ in number; `config-invalid` for fewer than two clusters.
 * @example
 * ```ts
 * import { matrix, silhouette } from "tunesmith/runtime";
 * const scores = silhouette(matrix([[0], [1], [10], [11]]), [0, 0, 1, 1]);
 * ```
 */
export function silhouette(a: Matrix, labels: ArrayLike<number>): Float64Array {
  const n = a.rows;
  if (labels.length !== n) shapeError("silhouette", `${labels.length} labels for ${n} rows`);
  const names = [...new Set(Array.from(labels))];
  if (names.length < 2) {
    throw new TunesmithError("config-invalid", "silhouette: all rows are in one cluster", {
      fix: "pass two or more clusters",
    });
  }
  const cluster = Array.from(labels, (label) => names.indexOf(label));
  const sizes = new Float64Array(names.length);
  for (const c of cluster) (sizes[c] as number) += 1;
  const { data } = pairwiseDistances(a);
  const out = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const own = cluster[i] as number;
    if (sizes[own] === 1) continue;
    const sums = new Float64Array(names.length);
    for (let j = 0; j < n; j++) (sums[cluster[j] as number] as number) += data[i * n + j] as number;
    const inside = (sums[own] as number) / ((sizes[own] as number) - 1);
    let outside = Number.POSITIVE_INFINITY;
    for (let c = 0; c < names.length; c++)
      if (c !== own) outside = Math.min(outside, (sums[c] as number) / (sizes[c] as number));
    const larger = Math.max(inside, outside);
    out[i] = larger === 0 ? 0 : (outside - inside) / larger;
  }
  return out;
}
