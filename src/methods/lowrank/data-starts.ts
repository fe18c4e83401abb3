import { svd } from "../../runtime/linalg/index.js";
import type { InitContext } from "../method.js";
import { inputDirections } from "./eva-ranks.js";

/**
 * EVA (arXiv 2410.07170): rows of A are the directions in which a site's inputs vary most, B is zero. They are the
 * eigenvectors of the exact covariance of all rows of the data, which is what the official code's incremental decomposition, of a few
 * components and by random projections, comes near. `whiten` divides a row by the root of its singular value √(n·λ), as there.
 */
export async function eva(context: InitContext, rank: number, whiten = false) {
  const { inFeatures: n, outFeatures } = context.site;
  const { variances, vectors } = await inputDirections(n, (name) => context.statistic(name));
  const rows = whiten ? Number((await context.statistic("rows"))[0]) : 1;
  const a = new Float32Array(rank * n);
  for (let k = 0; k < rank; k++) {
    const size = whiten ? (rows * (variances[k] as number)) ** 0.25 || 1 : 1;
    for (let at = 0; at < n; at++) a[k * n + at] = (vectors[at * n + k] as number) / size;
  }
  return { a, b: new Float32Array(outFeatures * rank) };
}

/** γ of the stable scale. */
const GAMMA = 16;

/**
 * LoRA-GA (arXiv 2407.05000, theorems 3.1 and 3.2): A and B from different singular directions of the weight's gradient,
 * so that the first step moves W along the best approximation of rank 2r of the gradient; their size keeps outputs stable.
 */
export async function loraGa(context: InitContext, rank: number) {
  const { outFeatures: rows, inFeatures: cols } = context.site;
  const { u, vt } = svd({ rows, cols, data: await context.statistic("gradient") });
  const size = rows ** 0.25 / Math.sqrt(GAMMA);
  const a = Float32Array.from(vt.data.subarray(0, rank * cols), (value) => size * value);
  const b = Float32Array.from({ length: rows * rank }, (_, at) => {
    const [row, k] = [Math.floor(at / rank), at % rank];
    return size * (u.data[row * u.cols + rank + k] as number);
  });
  return { a, b };
}
