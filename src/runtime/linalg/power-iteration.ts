import { TunesmithError } from "../../errors/index.js";
import { rng, type StreamKey } from "../random/index.js";
import { checkMatrix, type Matrix, toFloat64 } from "./matrix.js";
import { argMaxAbs, axpy, dot, scale } from "./vector.js";

/** Options of `powerIteration`. */
export interface PowerIterationOptions {
  /** Stop when the value changes by less than this fraction; default 1e-12. */
  readonly tolerance?: number;
  /** Default 10,000. */
  readonly maxIterations?: number;
  /** Default 0. */
  readonly seed?: StreamKey;
}

/** The largest singular value with its vectors. */
export interface SingularTriple {
  readonly sigma: number;
  /** `[m]` */
  readonly u: Float64Array;
  /** `[n]` */
  readonly v: Float64Array;
  readonly iterations: number;
}

/**
 * Largest singular value (spectral norm) and its vectors by power iteration on `A' A`: two matrix-vector products
 * an iteration. When the two largest values coincide, the vectors are some pair of their common space.
 *
 * @param a `[m, n]`
 * @throws `numerical-failure` when an entry is not finite or the value has not settled after `maxIterations`.
 * @example
 * ```ts
 * import { matrix, powerIteration } from "tunesmith/runtime";
 * const { sigma } = powerIteration(matrix([[3, 0], [0, 1]])); // 3
 * ```
 */
export function powerIteration(a: Matrix, options: PowerIterationOptions = {}): SingularTriple {
  checkMatrix(a, "powerIteration");
  const { tolerance = 1e-12, maxIterations = 10_000, seed = 0 } = options;
  const { rows: m, cols: n, data } = toFloat64(a);
  const u = new Float64Array(m);
  const v = rng(seed, "powerIteration").fillNormal(new Float64Array(n));
  normalise(v);
  let previous = -1;
  for (let iteration = 1; iteration <= maxIterations; iteration++) {
    for (let i = 0; i < m; i++) u[i] = dot(n, data, i * n, v, 0);
    const sigma = normalise(u);
    if (sigma === 0) return { sigma, u, v, iterations: iteration };
    v.fill(0);
    for (let i = 0; i < m; i++) axpy(n, u[i] as number, data, i * n, v, 0);
    const next = normalise(v);
    if (Math.abs(next - previous) <= tolerance * next) {
      if ((u[argMaxAbs(m, u, 0, 1)] as number) < 0) {
        scale(m, -1, u, 0);
        scale(n, -1, v, 0);
      }
      return { sigma: next, u, v, iterations: iteration };
    }
    previous = next;
  }
  throw new TunesmithError(
    "numerical-failure",
    `powerIteration: no convergence in ${maxIterations} iterations`,
    {
      fix: "raise maxIterations or tolerance, or use svd",
    },
  );
}

/** Scales to unit length and returns the former length; leaves a zero vector alone. */
function normalise(x: Float64Array): number {
  const largest = x.length === 0 ? 0 : Math.abs(x[argMaxAbs(x.length, x, 0, 1)] as number);
  if (largest === 0) return 0;
  scale(x.length, 1 / largest, x, 0);
  const norm = Math.sqrt(dot(x.length, x, 0, x, 0));
  scale(x.length, 1 / norm, x, 0);
  return norm * largest;
}
