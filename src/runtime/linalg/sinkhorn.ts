import { TunesmithError } from "../../errors/index.js";
import { checkMatrix, type Matrix, type Matrix64, shapeError, zeros } from "./matrix.js";

/** Options of `sinkhorn`. */
export interface SinkhornOptions {
  /** Entropy weight; small values approach the cheapest assignment and converge slowly. */
  readonly regularisation: number;
  /** Row sums `[m]`; default 1/m each. */
  readonly rowSums?: ArrayLike<number>;
  /** Column sums `[n]`; default 1/n each. */
  readonly columnSums?: ArrayLike<number>;
  /** Stop when no scaling changes by more than this fraction; default 1e-9. */
  readonly tolerance?: number;
  /** Default 1,000. */
  readonly maxIterations?: number;
}

/** A transport plan. */
export interface TransportPlan {
  /** `[m, n]`; rows meet `rowSums` exactly, columns up to the tolerance. */
  readonly plan: Matrix64;
  readonly iterations: number;
  /** False when `maxIterations` ended it; always so when the two marginals have different mass. */
  readonly converged: boolean;
}

/**
 * Entropy-regularised optimal transport (Cuturi 2013, arXiv 1306.0895) by alternating scalings, computed with
 * logarithms so that a small regularisation does not underflow. Rows are scaled last.
 *
 * @param cost `[m, n]`
 * @throws `config-invalid` for a regularisation or marginals that are not positive; `shape-mismatch` for
 *   marginals of the wrong length; `numerical-failure` for costs that are not finite.
 * @example
 * ```ts
 * import { matrix, sinkhorn } from "tunesmith/runtime";
 * const { plan } = sinkhorn(matrix([[0, 1], [1, 0]]), { regularisation: 0.05 }); // about [[0.5, 0], [0, 0.5]]
 * ```
 */
export function sinkhorn(cost: Matrix, options: SinkhornOptions): TransportPlan {
  checkMatrix(cost, "sinkhorn");
  const { rows: m, cols: n } = cost;
  const { regularisation, tolerance = 1e-9, maxIterations = 1000 } = options;
  if (!(regularisation > 0)) invalid(`regularisation is ${regularisation}`);
  const logRows = logMarginal("rowSums", m, options.rowSums);
  const logColumns = logMarginal("columnSums", n, options.columnSums);
  const kernel = Float64Array.from(cost.data, (value) => -value / regularisation);
  const f = new Float64Array(m);
  const g = new Float64Array(n);
  let iterations = 0;
  let converged = m * n === 0;
  while (!converged && iterations < maxIterations) {
    iterations++;
    const columnChange = balance(
      g,
      logColumns,
      (j, i) => (kernel[i * n + j] as number) + (f[i] as number),
      m,
    );
    const rowChange = balance(f, logRows, (i, j) => (kernel[i * n + j] as number) + (g[j] as number), n);
    converged = Math.max(columnChange, rowChange) < tolerance;
  }
  const plan = zeros(m, n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++)
      plan.data[i * n + j] = Math.exp((f[i] as number) + (kernel[i * n + j] as number) + (g[j] as number));
  }
  return { plan, iterations, converged };
}

/** Sets every log-scaling so that its sum meets the target; returns the largest change. */
function balance(
  scaling: Float64Array,
  target: Float64Array,
  term: (own: number, other: number) => number,
  others: number,
): number {
  let change = 0;
  for (let k = 0; k < scaling.length; k++) {
    let largest = Number.NEGATIVE_INFINITY;
    for (let o = 0; o < others; o++) largest = Math.max(largest, term(k, o));
    let sum = 0;
    for (let o = 0; o < others; o++) sum += Math.exp(term(k, o) - largest);
    const next = (target[k] as number) - largest - Math.log(sum);
    change = Math.max(change, Math.abs(next - (scaling[k] as number)));
    scaling[k] = next;
  }
  return change;
}

function logMarginal(name: string, length: number, sums?: ArrayLike<number>): Float64Array {
  if (!sums) return new Float64Array(length).fill(-Math.log(length));
  if (sums.length !== length)
    shapeError("sinkhorn", `${name} has ${sums.length} entries, expected ${length}`);
  return Float64Array.from(sums, (value) => {
    if (!(value > 0 && Number.isFinite(value))) invalid(`${name} contains ${value}`);
    return Math.log(value);
  });
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `sinkhorn: ${problem}`, { fix: "use positive finite numbers" });
}
