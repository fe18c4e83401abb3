import { cholesky } from "../runtime/linalg/index.js";

/** Share of the mean variance that is added to every variance, as in GPTQ. */
const DAMPING = 0.01;

/**
 * The upper triangular U with UᵀU = (C + damping)⁻¹, row-major: from C = RRᵀ with R upper triangular, by Cholesky of C in
 * reversed order, U = R⁻¹.
 *
 * @param covariance `[n, n]`
 * @throws `numerical-failure` for a matrix with negative eigenvalues.
 */
export function inverseRoot(covariance: Float32Array, n: number): Float64Array {
  let trace = 0;
  for (let at = 0; at < n; at++) trace += covariance[at * (n + 1)] as number;
  // Inputs that are always zero leave nothing to weigh: the identity.
  const damping = trace > 0 ? (DAMPING * trace) / n : 1;
  const data = new Float64Array(n * n);
  for (let row = 0; row < n; row++)
    for (let column = 0; column < n; column++)
      data[row * n + column] = covariance[(n - 1 - row) * n + (n - 1 - column)] as number;
  for (let at = 0; at < n; at++) data[at * (n + 1)] = (data[at * (n + 1)] as number) + damping;
  const lower = cholesky({ rows: n, cols: n, data }).data;
  return reversedInverse(lower, n);
}

/** The inverse of a lower triangle L, its rows and columns in reversed order: row k of it solves xL = eₖ. */
function reversedInverse(lower: Float64Array, n: number): Float64Array {
  const inverse = new Float64Array(n * n);
  for (let row = 0; row < n; row++) {
    const at = row * n;
    inverse[at + row] = 1 / (lower[at + row] as number);
    // L⁻¹ row by row: (L⁻¹)ᵣ = (eᵣ − Σₖ Lᵣₖ·(L⁻¹)ₖ) / Lᵣᵣ over k < r.
    const scale = inverse[at + row] as number;
    for (let k = 0; k < row; k++) {
      const factor = -scale * (lower[at + k] as number);
      if (factor === 0) continue;
      for (let column = 0; column <= k; column++)
        inverse[at + column] =
          (inverse[at + column] as number) + factor * (inverse[k * n + column] as number);
    }
  }
  const turned = new Float64Array(n * n);
  for (let row = 0; row < n; row++)
    for (let column = 0; column < n; column++)
      turned[row * n + column] = inverse[(n - 1 - row) * n + (n - 1 - column)] as number;
  return turned;
}
