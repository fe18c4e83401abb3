import {
  gemm,
  kMeans,
  type Matrix,
  type Matrix64,
  qr,
  slice,
  svd,
  symmetricEigen,
  transpose,
  zeros,
} from "../../runtime/linalg/index.js";
import { mt19937, numpyRandom } from "../../runtime/random/index.js";

/** What AdaMSS starts from: rows of a weight in clusters, each with directions of its own. */
export interface Subspaces {
  /** Leading right singular vectors `[r, in]`. */
  readonly basis: Float32Array;
  /** Cluster of every row. */
  readonly clusters: Int32Array;
  /** Directions that each cluster trains. */
  readonly ranks: Int32Array;
  /** Those directions in the basis `[K, width, r]`, zero beyond a cluster's rank. */
  readonly directions: Float32Array;
}

export interface SubspaceOptions {
  readonly rank: number;
  readonly subspaces: number;
  /** Directions of a cluster at most. */
  readonly width: number;
  /** Only as many of them as have more than this share of the largest squared singular value. */
  readonly threshold?: number | undefined;
  readonly seed: number;
}

/** Seed and steps of the clustering are fixed in the reference: files hold no clusters, readers find them again. */
const [CLUSTER_SEED, CLUSTER_STEPS] = [123456789, 10];

/** Leading left and right singular vectors, by the random directions and the steps of `torch.svd_lowrank`. */
function leading(a: Matrix, rank: number, seed: number): { u: Matrix64; v: Matrix64 } {
  const isWide = a.rows < a.cols;
  const tall = isWide ? transpose(a) : a;
  let range = qr(gemm(tall, { rows: tall.cols, cols: rank, data: mt19937(seed).normal(tall.cols * rank) })).q;
  for (let step = 0; step < 2; step++)
    range = qr(gemm(tall, qr(gemm(tall, range, { transposeA: true })).q)).q;
  const inner = svd(gemm(tall, range, { transposeA: true }));
  const [long, short] = [gemm(range, transpose(inner.vt)), inner.u];
  return isWide ? { u: short, v: long } : { u: long, v: short };
}

/**
 * Clusters of a weight's rows by their left singular vectors, as PEFT makes them: by scikit-learn's k-means from rows that
 * NumPy draws. With as many vectors as rows all rows are equally far apart, and there are no clusters to find.
 */
export function subspacesOf(
  weight: Matrix,
  { rank, subspaces, width, threshold, seed }: SubspaceOptions,
): Subspaces {
  const { u, v } = leading(weight, rank, seed);
  const clusters = kMeans(u, {
    start: numpyRandom(CLUSTER_SEED).choice(u.rows, subspaces),
    iterations: CLUSTER_STEPS,
  });
  const ranks = new Int32Array(subspaces);
  const directions = new Float32Array(subspaces * width * rank);
  for (let cluster = 0; cluster < subspaces; cluster++) {
    const own = rowsOf(u, clusters, cluster);
    const { values, vectors } = symmetricEigen(gemm(own, own, { transposeA: true }));
    const large =
      threshold === undefined ? rank : values.filter((x) => x > threshold * Number(values[0])).length;
    ranks[cluster] = Math.max(1, Math.min(own.rows, width, rank, large));
    const kept = transpose(slice(vectors, 0, rank, 0, ranks[cluster] as number));
    directions.set(kept.data, cluster * width * rank);
  }
  return { basis: Float32Array.from(transpose(v).data), clusters, ranks, directions };
}

function rowsOf(a: Matrix64, clusters: Int32Array, cluster: number): Matrix64 {
  const rows = [...clusters.keys()].filter((row) => clusters[row] === cluster);
  const out = zeros(rows.length, a.cols);
  rows.forEach((row, at) => {
    out.data.set(a.data.subarray(row * a.cols, (row + 1) * a.cols), at * a.cols);
  });
  return out;
}
