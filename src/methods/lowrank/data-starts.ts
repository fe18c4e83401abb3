import { svd, symmetricEigen } from "../../runtime/linalg/index.js";
import type { InitContext } from "../method.js";

/**
 * EVA (arXiv 2410.07170) with equal ranks: rows of A are the directions in which a site's inputs vary most, B is zero. All
 * data counts at once, where the official code takes batches until the directions settle.
 */
export async function eva(context: InitContext, rank: number) {
  const { inFeatures: n, outFeatures } = context.site;
  const [products, mean] = [await context.statistic("covariance"), await context.statistic("inputMean")];
  const data = Float64Array.from(
    products,
    (value, at) => value - (mean[Math.floor(at / n)] as number) * (mean[at % n] as number),
  );
  const { vectors } = symmetricEigen({ rows: n, cols: n, data });
  const a = new Float32Array(rank * n);
  for (let k = 0; k < rank; k++)
    for (let at = 0; at < n; at++) a[k * n + at] = vectors.data[at * n + k] as number;
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
