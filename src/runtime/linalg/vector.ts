/** `sum_i x[xo + i] y[yo + i]`, four running sums so that additions do not wait for one another. */
export function dot(n: number, x: Float64Array, xo: number, y: Float64Array, yo: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < n; i += 4) {
    s0 += (x[xo + i] as number) * (y[yo + i] as number);
    s1 += (x[xo + i + 1] as number) * (y[yo + i + 1] as number);
    s2 += (x[xo + i + 2] as number) * (y[yo + i + 2] as number);
    s3 += (x[xo + i + 3] as number) * (y[yo + i + 3] as number);
  }
  for (; i < n; i++) s0 += (x[xo + i] as number) * (y[yo + i] as number);
  return s0 + s1 + (s2 + s3);
}

/** `y += alpha x` */
export function axpy(
  n: number,
  alpha: number,
  x: Float64Array,
  xo: number,
  y: Float64Array,
  yo: number,
): void {
  if (alpha === 0) return;
  for (let i = 0; i < n; i++) (y[yo + i] as number) += alpha * (x[xo + i] as number);
}

/** `x *= alpha` */
export function scale(n: number, alpha: number, x: Float64Array, xo: number): void {
  for (let i = 0; i < n; i++) (x[xo + i] as number) *= alpha;
}

/** Plane rotation of two vectors: `x = c x + s y`, `y = c y - s x`. */
export function rotate(
  n: number,
  c: number,
  s: number,
  x: Float64Array,
  xo: number,
  y: Float64Array,
  yo: number,
): void {
  for (let i = 0; i < n; i++) {
    const xi = x[xo + i] as number;
    const yi = y[yo + i] as number;
    x[xo + i] = c * xi + s * yi;
    y[yo + i] = c * yi - s * xi;
  }
}

/** Index of the entry of largest magnitude of a strided vector, the first one among equals. */
export function argMaxAbs(n: number, x: Float64Array, offset: number, stride: number): number {
  let best = 0;
  for (let i = 1; i < n; i++) {
    if (Math.abs(x[offset + i * stride] as number) > Math.abs(x[offset + best * stride] as number)) best = i;
  }
  return best;
}
