import { TunesmithError } from "../../errors/index.js";
import { gemm } from "./gemm.js";
import { checkMatrix, frobeniusNorm, type Matrix, type Matrix64, shapeError, toFloat64 } from "./matrix.js";

/**
 * Linear centred kernel alignment of two representations of the same n examples (Kornblith et al. 2019, arXiv
 * 1905.00414): 1 when they agree up to rotation, shift and scale, near 0 when unrelated.
 *
 * @param x `[n, p]`
 * @param y `[n, q]`
 * @throws `shape-mismatch` when the row counts differ; `numerical-failure` when a side is constant.
 * @example
 * ```ts
 * import { linearCka, matrix } from "tunesmith/runtime";
 * const same = linearCka(matrix([[1], [2], [4]]), matrix([[-2], [-4], [-8]])); // 1
 * ```
 */
export function linearCka(x: Matrix, y: Matrix): number {
  checkMatrix(x, "linearCka");
  checkMatrix(y, "linearCka");
  if (x.rows !== y.rows) shapeError("linearCka", `${x.rows} and ${y.rows} examples`);
  const a = centred(x);
  const b = centred(y);
  const cross = frobeniusNorm(gemm(a, b, { transposeA: true })) ** 2;
  const scale = gramNorm(a) * gramNorm(b);
  if (scale === 0) {
    throw new TunesmithError(
      "numerical-failure",
      "linearCka: a representation is the same for all examples",
      {
        fix: "pass at least two different examples",
      },
    );
  }
  return cross / scale;
}

/** `|A' A|`, through the smaller of the two Gram matrices. */
function gramNorm(a: Matrix64): number {
  return frobeniusNorm(a.rows < a.cols ? gemm(a, a, { transposeB: true }) : gemm(a, a, { transposeA: true }));
}

/** A copy whose columns have mean zero. */
function centred(x: Matrix): Matrix64 {
  const out = toFloat64(x);
  for (let j = 0; j < x.cols; j++) {
    let mean = 0;
    for (let i = 0; i < x.rows; i++) mean += (out.data[i * x.cols + j] as number) / x.rows;
    for (let i = 0; i < x.rows; i++) (out.data[i * x.cols + j] as number) -= mean;
  }
  return out;
}
