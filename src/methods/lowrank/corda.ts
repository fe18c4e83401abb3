import { TunesmithError } from "../../errors/index.js";
import { gemm, inverse, type Matrix, svd } from "../../runtime/linalg/index.js";
import type { InitContext, SiteShape } from "../method.js";

/** Which components of a weight, oriented by data, an adapter takes: the largest for a task, the smallest to keep knowledge. */
export type CordaMode = "ipm" | "kpm";

const DAMPING = 0.01;
const MOST_DAMPING = 1e6;

/** C + damp·mean(diag C)·I and its inverse, damped until the inverse is one. */
function damped(covariance: Float32Array, n: number, site: SiteShape): { c: Matrix; inverted: Matrix } {
  const mean =
    Array.from({ length: n }, (_, at) => covariance[at * (n + 1)] as number).reduce((a, b) => a + b, 0) / n;
  for (let damp = DAMPING; mean > 0 && damp < MOST_DAMPING; damp *= 2) {
    const data = Float64Array.from(covariance);
    for (let at = 0; at < n; at++) data[at * (n + 1)] = (data[at * (n + 1)] as number) + damp * mean;
    const c = { rows: n, cols: n, data };
    const inverted = inverse(c);
    const product = gemm(c, inverted).data;
    let error = 0;
    for (let at = 0; at < product.length; at++)
      error += ((product[at] as number) - (at % (n + 1) === 0 ? 1 : 0)) ** 2;
    if (Math.sqrt(error) < 0.05) return { c, inverted };
  }
  throw new TunesmithError("numerical-failure", `corda: the covariance of ${site.path} has no inverse`, {
    fix: "calibrate on more, and more varied, data",
  });
}

/**
 * Context-oriented decomposition (arXiv 2406.05223): W·C = U·S·Vᵀ with C the covariance of the site's inputs; B = U_r·√S_r and
 * A = √S_r·V_rᵀ·C⁻¹ of the components chosen. Throws `numerical-failure`.
 */
export async function corda(context: InitContext, rank: number, scale: number, mode: CordaMode) {
  const { site } = context;
  const { outFeatures: rows, inFeatures: cols } = site;
  const { c, inverted } = damped(await context.statistic("covariance"), cols, site);
  const { u, s, vt } = svd(gemm({ rows, cols, data: await context.weight() }, c));
  const first = mode === "ipm" ? 0 : s.length - rank;
  const a = new Float64Array(rank * cols);
  const b = new Float32Array(rows * rank);
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt((s[first + k] as number) / scale);
    for (let col = 0; col < cols; col++)
      a[k * cols + col] = root * (vt.data[(first + k) * cols + col] as number);
    for (let row = 0; row < rows; row++)
      b[row * rank + k] = root * (u.data[row * u.cols + first + k] as number);
  }
  const turned = gemm({ rows: rank, cols, data: a }, inverted);
  return { a: Float32Array.from(turned.data), b };
}
