import { gemm, type Matrix64, nearestOrthogonal, solve } from "../../runtime/linalg/index.js";

export interface StiefelOptions {
  /** Learning rate. */
  readonly lr: number;
  /** How a step returns to the manifold: Euler's step and the polar factor, or Cayley's map. Default polar. */
  readonly retraction?: "polar" | "cayley";
  /** Default 0.9. */
  readonly beta1?: number;
  /** Default 0.99. */
  readonly beta2?: number;
  /** Default 1e-5. */
  readonly epsilon?: number;
}

/** What StiefelAdam remembers of a matrix, as plain data. */
export interface StiefelState {
  step: number;
  /** First and second moments of the skew gradient, row-major. */
  readonly m: number[];
  readonly v: number[];
}

/** The state before the first step of an `n x n` matrix. */
export const stiefelState = (n: number): StiefelState => ({
  step: 0,
  m: new Array<number>(n * n).fill(0),
  v: new Array<number>(n * n).fill(0),
});

/**
 * One step of Adam on the orthogonal matrices (StiefelAdam, arXiv 2405.21050; canonical metric): moments are kept of the skew
 * part g = XᵀG − GᵀX, so a step X·(I + ξ) has a skew ξ, and a retraction makes it orthogonal again. `x` is changed in place.
 *
 * @param x `[n, n]`, orthogonal, row-major
 * @param gradient dL/dx, as `x`
 * @param state of this matrix; see `stiefelState`
 * @example
 * ```ts
 * import { stiefelState, stiefelStep } from "tunesmith/methods";
 * const [x, state] = [Float64Array.of(1, 0, 0, 1), stiefelState(2)];
 * stiefelStep(x, Float64Array.of(0, 1, 0, 0), state, { lr: 0.1 }); // x turns by about 0.1
 * ```
 */
export function stiefelStep(
  x: Float32Array | Float64Array,
  gradient: Float32Array | Float64Array,
  state: StiefelState,
  options: StiefelOptions,
): void {
  const n = Math.sqrt(x.length);
  const at: Matrix64 = { rows: n, cols: n, data: Float64Array.from(x) };
  const xg = gemm(at, { rows: n, cols: n, data: Float64Array.from(gradient) }, { transposeA: true }).data;
  const direction = moments(xg, n, state, options);
  x.set(retract(at, direction, options.retraction ?? "polar").data);
}

/** ξ: the step in the tangent space, `[n, n]` and skew. */
function moments(xg: Float64Array, n: number, state: StiefelState, options: StiefelOptions): Matrix64 {
  const { lr, beta1 = 0.9, beta2 = 0.99, epsilon = 1e-5 } = options;
  const { m, v } = state;
  state.step += 1;
  const data = new Float64Array(n * n);
  const [bias1, bias2] = [1 - beta1 ** state.step, 1 - beta2 ** state.step];
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const at = i * n + j;
      const g = (xg[at] as number) - (xg[j * n + i] as number);
      m[at] = beta1 * (m[at] as number) - (1 - beta1) * g;
      v[at] = beta2 * (v[at] as number) + (1 - beta2) * g * g;
      data[at] = (lr * ((m[at] as number) / bias1)) / (Math.sqrt((v[at] as number) / bias2) + epsilon);
    }
  }
  return { rows: n, cols: n, data };
}

/** A point near X·(I + ξ) on the manifold. */
function retract(x: Matrix64, { data: xi, rows: n }: Matrix64, how: "polar" | "cayley"): Matrix64 {
  const plus = (factor: number): Matrix64 => ({
    rows: n,
    cols: n,
    data: xi.map((value, at) => factor * value + (at % (n + 1) === 0 ? 1 : 0)),
  });
  if (xi.every((value) => value === 0)) return x;
  if (how === "polar") return nearestOrthogonal(gemm(x, plus(1)));
  return gemm(x, solve(plus(-0.5), plus(0.5)));
}
