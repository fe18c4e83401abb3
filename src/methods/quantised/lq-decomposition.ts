import { TunesmithError } from "../../errors/index.js";
import { type Matrix64, randomizedSvd } from "../../runtime/linalg/index.js";
import {
  type NormalFloatLayout,
  type NormalFloatMatrix,
  quantizeNormalFloat,
  roundToNormalFloat,
} from "../../tensor/index.js";

/** L1 `[rows, r]` and L2 `[r, columns]`. */
export interface LqFactors {
  readonly l1: Float32Array;
  readonly l2: Float32Array;
}

export interface LqOptions {
  readonly rank: number;
  readonly layout: NormalFloatLayout;
  /** What each entry's error counts, `[rows, columns]`, not negative: the diagonal Fisher information. Default: all alike. */
  readonly fisher?: Float32Array | undefined;
  /** Rounds at most. Default 100. */
  readonly maxIters?: number;
  /** The factors of the weight itself, where they are known: the first round starts from them, whatever the layout. */
  readonly first?: LqFactors | undefined;
}

/** W ≈ Q + L1·L2. */
export interface LqDecomposition extends LqFactors {
  readonly quantised: NormalFloatMatrix;
  /** ‖√F ∘ (W − Q − L1·L2)‖, without Fisher information the plain norm. */
  readonly error: number;
  /** The error of each round; where it stopped early, the last is the one that was larger and thrown away. */
  readonly errors: readonly number[];
}

/**
 * Low-rank plus quantised decomposition (LQ-LoRA, arXiv 2311.12023): factors of what the quantised part leaves, then codes of
 * what the factors leave, in turn, until the error grows. The round before that is kept.
 *
 * @param weight `[rows, columns]`, row-major.
 * @throws `config-invalid` for a rank above min(rows, columns) or Fisher information that is zero everywhere, and what
 *   `quantizeNormalFloat` throws.
 * @example
 * ```ts
 * import { lqDecompose } from "tunesmith/methods";
 * const layout = { bits: 3, blockSize: 64, scaleBits: 8, superBlock: 256, scaleDtype: "float16" } as const;
 * export const split = (weight: Float32Array) => lqDecompose(weight, 256, 256, { rank: 16, layout });
 * ```
 */
export async function lqDecompose(
  weight: Float32Array,
  rows: number,
  columns: number,
  options: LqOptions,
): Promise<LqDecomposition> {
  const { rank, layout, maxIters = 100, fisher } = options;
  const weights = fisher && weightsOf(fisher, rows, columns);
  const shape = { rows, columns, rank };
  const unit = weights?.unit ?? 1;
  let factors = options.first ?? (await lqFactors(weight, shape, weights));
  let best = { factors, rest: weight, error: Number.POSITIVE_INFINITY };
  const errors: number[] = [];
  for (let round = 0; round < maxIters; round++) {
    const rest = differences(weight, multiplied(factors, shape));
    const kept = roundToNormalFloat(rest, layout);
    const error = unit * norm(differences(rest, kept), weights?.entries);
    errors.push(error);
    if (error > best.error) break;
    best = { factors, rest, error };
    if (error === 0 || round + 1 === maxIters) break;
    factors = await lqFactors(differences(weight, kept), shape, weights, factors);
  }
  const quantised = quantizeNormalFloat(best.rest, layout);
  return { ...best.factors, quantised, error: best.error, errors };
}

function differences(a: Float32Array, b: Float32Array): Float32Array {
  const out = new Float32Array(a.length);
  for (let at = 0; at < out.length; at++) out[at] = (a[at] as number) - (b[at] as number);
  return out;
}

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly rank: number;
}

/** Fisher information over its largest, and its rows and columns: F ≈ (d_r·d_c)². Weights that are all alike are exactly 1. */
export interface LqWeights {
  readonly entries: Float32Array;
  readonly rows: Float64Array;
  readonly columns: Float64Array;
  /** What norms in these weights are times to be norms in the given ones. */
  readonly unit: number;
}

/** Rows and columns that no gradient reached count a little, so that they can be divided by. */
const LEAST = 1e-4;

/** The closed form that Fisher information is made to fit, `[rows, columns]`. Throws `config-invalid` when it is all zero. */
export function weightsOf(fisher: Float32Array, rows: number, columns: number): LqWeights {
  const largest = fisher.reduce((most, value) => Math.max(most, value), 0);
  if (!(largest > 0) || !Number.isFinite(largest)) {
    throw new TunesmithError("config-invalid", "Fisher information that is zero everywhere, or not finite", {
      fix: "calibrate on data whose loss depends on the module, or leave Fisher information out",
    });
  }
  const entries = fisher.map((value) => value / largest);
  const [byRow, byColumn] = [new Float64Array(rows), new Float64Array(columns)];
  for (const [at, value] of entries.entries()) {
    const [row, column] = [Math.floor(at / columns), at % columns];
    byRow[row] = (byRow[row] as number) + value;
    byColumn[column] = (byColumn[column] as number) + value;
  }
  const roots = (sums: Float64Array) => {
    const most = sums.reduce((a, b) => Math.max(a, b));
    return sums.map((sum) => Math.max(Math.sqrt(sum / most), LEAST));
  };
  return { entries, rows: roots(byRow), columns: roots(byColumn), unit: Math.sqrt(largest) };
}

/**
 * The best factors of a matrix: L1 = D_r⁻¹·U·√Σ and L2 = √Σ·Vᵀ·D_c⁻¹ of the triplets of D_r·M·D_c.
 *
 * @param near Factors of a matrix nearby: the search for directions begins with theirs.
 */
export async function lqFactors(
  matrix: Float32Array,
  { rows, columns, rank }: Shape,
  weights?: LqWeights,
  near?: LqFactors,
): Promise<LqFactors> {
  const byRow = weights?.rows ?? new Float64Array(rows).fill(1);
  const byColumn = weights?.columns ?? new Float64Array(columns).fill(1);
  const data = new Float64Array(matrix.length);
  for (let row = 0, at = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, at++)
      data[at] = (matrix[at] as number) * (byRow[row] as number) * (byColumn[column] as number);
  const start = near && directionsOf(near, rank, byColumn);
  const { u, s, vt } = await randomizedSvd(
    { rows, cols: columns, data },
    { rank, ...(start ? { start, powerIterations: 1 } : {}) },
  );
  const l1 = new Float32Array(rows * rank);
  const l2 = new Float32Array(rank * columns);
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt(s[k] as number);
    for (let row = 0; row < rows; row++)
      l1[row * rank + k] = (root * (u.data[row * u.cols + k] as number)) / (byRow[row] as number);
    for (let column = 0; column < columns; column++)
      l2[k * columns + column] =
        (root * (vt.data[k * vt.cols + column] as number)) / (byColumn[column] as number);
  }
  return { l1, l2 };
}

/** Right directions of factors under weights of columns, `[columns, rank]`. */
function directionsOf({ l2 }: LqFactors, rank: number, byColumn: Float64Array): Matrix64 {
  const columns = byColumn.length;
  const data = new Float64Array(l2.length);
  for (let k = 0; k < rank; k++)
    for (let column = 0; column < columns; column++)
      data[column * rank + k] = (l2[k * columns + column] as number) * (byColumn[column] as number);
  return { rows: columns, cols: rank, data };
}

function multiplied({ l1, l2 }: LqFactors, { rows, columns, rank }: Shape): Float32Array {
  const out = new Float32Array(rows * columns);
  const sums = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    sums.fill(0);
    for (let k = 0; k < rank; k++) {
      const left = l1[row * rank + k] as number;
      for (let column = 0; column < columns; column++)
        sums[column] = (sums[column] as number) + left * (l2[k * columns + column] as number);
    }
    out.set(sums, row * columns);
  }
  return out;
}

function norm(left: Float32Array, weights?: Float32Array): number {
  let sum = 0;
  for (let at = 0; at < left.length; at++) sum += (weights?.[at] ?? 1) * (left[at] as number) ** 2;
  return Math.sqrt(sum);
}
