import { TunesmithError } from "../../errors/index.js";
import { gemm } from "./gemm.js";
import { checkSquare, identity, type Matrix, type Matrix64, toFloat64, zeros } from "./matrix.js";
import { solve } from "./solve.js";
import { axpy, scale } from "./vector.js";

const PADE13 = [
  64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000, 10559470521600,
  670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1,
];

/**
 * The matrix exponential, by scaling, the [13/13] Pade approximant and squaring (Higham 2005).
 *
 * @param a `[n, n]`
 * @throws `numerical-failure` when the result overflows.
 * @example
 * ```ts
 * import { matrix, matrixExponential } from "tunesmith/runtime";
 * const rotation = matrixExponential(matrix([[0, -1], [1, 0]])); // cos 1, -sin 1; sin 1, cos 1
 * ```
 */
export function matrixExponential(a: Matrix): Matrix64 {
  checkSquare(a, "matrixExponential");
  const n = a.rows;
  let norm = 0;
  for (let j = 0; j < n; j++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += Math.abs(a.data[i * n + j] as number);
    norm = Math.max(norm, sum);
  }
  const squarings = norm > 5.37 ? Math.ceil(Math.log2(norm / 5.37)) : 0;
  const x = toFloat64(a);
  scale(n * n, 2 ** -squarings, x.data, 0);
  let result = pade13(x);
  for (let i = 0; i < squarings; i++) result = gemm(result, result);
  if (!result.data.every(Number.isFinite)) {
    throw new TunesmithError(
      "numerical-failure",
      `matrixExponential: overflow (1-norm of the argument is ${norm})`,
      {
        fix: "scale the matrix down",
      },
    );
  }
  return result;
}

function pade13(x: Matrix64): Matrix64 {
  const n = x.rows;
  const x2 = gemm(x, x);
  const x4 = gemm(x2, x2);
  const x6 = gemm(x4, x2);
  const powers = [identity(n), x2, x4, x6];
  const combine = (from: number, count: number): Matrix64 => {
    const out = zeros(n, n);
    for (let p = 0; p < count; p++)
      axpy(n * n, PADE13[from + 2 * p] as number, (powers[p] as Matrix64).data, 0, out.data, 0);
    return out;
  };
  // Coefficients b_8, b_10, b_12 (even) and b_9, b_11, b_13 (odd) multiply x^6 times powers 2, 4 and 6.
  const high = (from: number): Matrix64 => {
    const out = zeros(n, n);
    for (let p = 1; p < 4; p++)
      axpy(n * n, PADE13[from + 2 * p] as number, (powers[p] as Matrix64).data, 0, out.data, 0);
    return gemm(x6, out);
  };
  const even = combine(0, 4);
  axpy(n * n, 1, high(6).data, 0, even.data, 0);
  const oddInner = combine(1, 4);
  axpy(n * n, 1, high(7).data, 0, oddInner.data, 0);
  const odd = gemm(x, oddInner);
  const numerator = toFloat64(even);
  axpy(n * n, 1, odd.data, 0, numerator.data, 0);
  axpy(n * n, -1, odd.data, 0, even.data, 0);
  return solve(even, numerator);
}
