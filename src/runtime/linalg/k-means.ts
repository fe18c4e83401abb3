import { TunesmithError } from "../../errors/index.js";
import { gemm } from "./gemm.js";
import { checkMatrix, type Matrix, type Matrix64, zeros } from "./matrix.js";

/** Options of `kMeans`. */
export interface KMeansOptions {
  /** Rows that clusters start at, one each; a cluster's number is its place here. */
  readonly start: readonly number[];
  /** Default 300. */
  readonly iterations?: number;
  /** Ends when the centres moved by less than this, over the mean variance of a column; default 1e-4. */
  readonly tolerance?: number;
}

/**
 * Clusters of rows by Lloyd's algorithm, step by step as scikit-learn's `KMeans(init="random", n_init=1)` takes it: same
 * starting rows, same clusters, up to distances that are equal but for rounding.
 *
 * @param a `[n, d]`
 * @returns cluster of every row `[n]`
 * @throws `config-invalid` for a starting row that there is not; `numerical-failure` for entries that are not finite.
 * @example
 * ```ts
 * import { kMeans, matrix } from "tunesmith/runtime";
 * const labels = kMeans(matrix([[0], [1], [10], [11]]), { start: [0, 1] }); // 0 0 1 1
 * ```
 */
export function kMeans(a: Matrix, { start, iterations = 300, tolerance = 1e-4 }: KMeansOptions): Int32Array {
  checkMatrix(a, "kMeans");
  const wrong = start.find((row) => !Number.isInteger(row) || row < 0 || row >= a.rows);
  if (wrong !== undefined || start.length === 0) {
    throw new TunesmithError(
      "config-invalid",
      `kMeans: ${wrong ?? "nothing"} is not a row of ${a.rows} to start at`,
      {
        fix: "name a row for every cluster",
      },
    );
  }
  const { rows, smallest } = centred(a, tolerance);
  let centres = zeros(start.length, a.cols);
  start.forEach((row, k) => {
    centres.data.set(rows.data.subarray(row * a.cols, (row + 1) * a.cols), k * a.cols);
  });
  let labels: Int32Array = new Int32Array(0);
  for (let at = 0; at < iterations; at++) {
    const before = labels;
    labels = nearest(rows, centres);
    const moved = means(rows, centres, labels);
    const shift = moved.data.reduce((sum, value, i) => sum + (value - (centres.data[i] as number)) ** 2, 0);
    centres = moved;
    if (before.length > 0 && labels.every((label, row) => label === before[row])) return labels;
    if (shift <= smallest) break;
  }
  return nearest(rows, centres);
}

/** Rows less their mean, and the shift of centres that counts as none. */
function centred(a: Matrix, tolerance: number): { rows: Matrix64; smallest: number } {
  const { rows: n, cols: d } = a;
  const rows = zeros(n, d);
  let variance = 0;
  for (let column = 0; column < d; column++) {
    let mean = 0;
    for (let row = 0; row < n; row++) mean += (a.data[row * d + column] as number) / n;
    for (let row = 0; row < n; row++) {
      const value = (a.data[row * d + column] as number) - mean;
      rows.data[row * d + column] = value;
      variance += (value * value) / (n * d);
    }
  }
  return { rows, smallest: variance * tolerance };
}

const squared = (data: Float64Array, from: number, count: number): number => {
  let sum = 0;
  for (let at = from; at < from + count; at++) sum += (data[at] as number) ** 2;
  return sum;
};

/** The first of the nearest centres of every row. */
function nearest(rows: Matrix64, centres: Matrix64): Int32Array {
  const { rows: k, cols: d } = centres;
  const products = gemm(rows, centres, { transposeB: true });
  const norms = Float64Array.from({ length: k }, (_, at) => squared(centres.data, at * d, d));
  return Int32Array.from({ length: rows.rows }, (_, row) => {
    let [best, least] = [0, Number.POSITIVE_INFINITY];
    for (let at = 0; at < k; at++) {
      const distance = (norms[at] as number) - 2 * (products.data[row * k + at] as number);
      if (distance < least) [best, least] = [at, distance];
    }
    return best;
  });
}

/** Means of clusters; one that lost all its rows starts anew at the row farthest from its centre. */
function means(rows: Matrix64, centres: Matrix64, labels: Int32Array): Matrix64 {
  const { rows: k, cols: d } = centres;
  const sums = zeros(k, d);
  const counts = new Float64Array(k);
  const move = (row: number, cluster: number, sign: number) => {
    counts[cluster] = (counts[cluster] as number) + sign;
    for (let at = 0; at < d; at++) {
      const place = cluster * d + at;
      sums.data[place] = (sums.data[place] as number) + sign * (rows.data[row * d + at] as number);
    }
  };
  labels.forEach((cluster, row) => {
    move(row, cluster, 1);
  });
  const empty = [...counts.keys()].filter((cluster) => counts[cluster] === 0);
  const far = empty.length > 0 ? farthest(rows, centres, labels) : [];
  for (const [at, cluster] of empty.entries()) {
    move(far[at] as number, labels[far[at] as number] as number, -1);
    move(far[at] as number, cluster, 1);
  }
  for (let at = 0; at < k * d; at++) {
    const count = counts[Math.floor(at / d)] as number;
    if (count > 0) sums.data[at] = (sums.data[at] as number) / count;
  }
  return sums;
}

/** Rows by their distance from the centre of their cluster, descending. */
function farthest(rows: Matrix64, centres: Matrix64, labels: Int32Array): number[] {
  const { cols: d } = centres;
  const distance = Float64Array.from(labels, (cluster, row) => {
    let sum = 0;
    for (let at = 0; at < d; at++)
      sum += ((rows.data[row * d + at] as number) - (centres.data[cluster * d + at] as number)) ** 2;
    return sum;
  });
  return [...distance.keys()].sort((x, y) => (distance[y] as number) - (distance[x] as number));
}
