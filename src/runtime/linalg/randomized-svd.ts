import { TunesmithError } from "../../errors/index.js";
import { rng, type StreamKey } from "../random/index.js";
import { type GemmBackend, gemm, gemmInThread } from "./gemm.js";
import { checkMatrix, type Matrix, type Matrix64, slice, toFloat32, transpose } from "./matrix.js";
import { qr } from "./qr.js";
import { type Svd, signFixed, svd } from "./svd.js";

/** Options of `randomizedSvd`. */
export interface RandomizedSvdOptions {
  /** Number of singular triples to return, 1 to min(m, n). */
  readonly rank: number;
  /** Extra random directions; default 10. */
  readonly oversampling?: number;
  /** Multiplications by `A A'` that sharpen a slowly decaying spectrum; default 2. */
  readonly powerIterations?: number;
  /** Directions to begin with `[n, k]`, such as those of a matrix nearby; random ones follow. Default none. */
  readonly start?: Matrix;
  /** Default 0. */
  readonly seed?: StreamKey;
  /** Who computes the products with A; default this thread, in double precision. */
  readonly gemm?: GemmBackend;
}

/**
 * The leading singular triples by randomised subspace iteration (Halko, Martinsson and Tropp 2011, arXiv
 * 0909.4061, algorithms 4.4 and 5.1), re-orthogonalised between products. Same seed, same result; signs fixed
 * as in `svd`. With a single-precision backend the values are good to about 1e-6 of the largest.
 *
 * @param a `[m, n]`
 * @returns U `[m, rank]`, s `[rank]`, Vt `[rank, n]`
 * @throws `config-invalid` for a rank out of range, `numerical-failure` for entries that are not finite.
 * @example
 * ```ts
 * import { randomizedSvd, type Matrix } from "tunesmith/runtime";
 * export const lowRank = (weight: Matrix) => randomizedSvd(weight, { rank: 64, seed: 1 });
 * ```
 */
export async function randomizedSvd(a: Matrix, options: RandomizedSvdOptions): Promise<Svd> {
  checkMatrix(a, "randomizedSvd");
  const { rank, oversampling = 10, powerIterations = 2, seed = 0, gemm: multiply = gemmInThread } = options;
  const smaller = Math.min(a.rows, a.cols);
  checkInteger("rank", rank, 1, smaller);
  checkInteger("oversampling", oversampling, 0, Number.MAX_SAFE_INTEGER);
  checkInteger("powerIterations", powerIterations, 0, Number.MAX_SAFE_INTEGER);
  const width = Math.min(smaller, rank + oversampling);
  // Operands of equal type: a single-precision weight meets single-precision directions in the backend.
  const like = (x: Matrix64): Matrix =>
    a.data instanceof Float32Array && multiply !== gemmInThread ? toFloat32(x) : x;
  const forward = async (x: Matrix64): Promise<Matrix> => multiply(a, like(x), {});
  const backward = async (x: Matrix64): Promise<Matrix> => multiply(a, like(x), { transposeA: true });

  const start = rng(seed, "randomizedSvd").fillNormal(new Float64Array(a.cols * width));
  if (options.start) begin(start, width, options.start, a.cols);
  let range = qr(await forward({ rows: a.cols, cols: width, data: start })).q;
  for (let i = 0; i < powerIterations; i++) {
    const coRange = qr(await backward(range)).q;
    range = qr(await forward(coRange)).q;
  }
  const inner = svd(transpose(await backward(range)));
  return signFixed({
    u: gemm(range, slice(inner.u, 0, width, 0, rank)),
    s: inner.s.slice(0, rank),
    vt: slice(inner.vt, 0, rank),
  });
}

/** Puts given directions in the place of the first random ones. */
function begin(start: Float64Array, width: number, { rows, cols, data }: Matrix, size: number): void {
  if (rows !== size) {
    throw new TunesmithError("shape-mismatch", `randomizedSvd: start has ${rows} rows, not ${size}`, {
      fix: "give directions [n, k] of an m x n matrix",
    });
  }
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < Math.min(cols, width); k++) start[row * width + k] = data[row * cols + k] as number;
}

function checkInteger(name: string, value: number, low: number, high: number): void {
  if (Number.isInteger(value) && value >= low && value <= high) return;
  throw new TunesmithError(
    "config-invalid",
    `randomizedSvd: ${name} is ${value}, expected an integer from ${low} to ${high}`,
    {
      fix: `choose another ${name}`,
    },
  );
}
