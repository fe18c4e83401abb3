import { emptyReflections, makeReflection, type Reflections } from "./householder.js";
import type { Matrix64 } from "./matrix.js";
import { axpy, dot, scale } from "./vector.js";

/** `A = L B R'` with B upper bidiagonal: diagonal `d`, superdiagonal `e`. */
export interface Bidiagonal {
  readonly d: Float64Array;
  readonly e: Float64Array;
  readonly left: Reflections;
  readonly right: Reflections;
}

/**
 * Householder bidiagonalisation of a matrix `[m, n]`, m >= n (Golub and Kahan 1965), overwriting it. Both
 * updates and the product with the right vector happen in one pass over each row while it is in the cache.
 */
export function bidiagonalise(a: Matrix64): Bidiagonal {
  const { rows: m, cols: n, data } = a;
  const d = new Float64Array(n);
  const e = new Float64Array(Math.max(0, n - 1));
  const left = emptyReflections(m, n, 0);
  const right = emptyReflections(n, Math.max(0, n - 1), 1);
  const w = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    const v = left.vectors.subarray(k * m, (k + 1) * m);
    for (let i = k; i < m; i++) v[i] = data[i * n + k] as number;
    const column = makeReflection(v, k, m - k);
    d[k] = column.beta;
    left.tau[k] = column.tau;
    if (k === n - 1) break;
    const width = n - k - 1;
    projectRows(data, n, k, m, k + 1, v, w);
    scale(width, column.tau, w, k + 1);
    axpy(width, -1, w, k + 1, data, k * n + k + 1);
    const u = right.vectors.subarray(k * n, (k + 1) * n);
    u.set(data.subarray(k * n + k + 1, (k + 1) * n), k + 1);
    const row = makeReflection(u, k + 1, width);
    e[k] = row.beta;
    right.tau[k] = row.tau;
    for (let i = k + 1; i < m; i++) {
      const at = i * n + k + 1;
      axpy(width, -(v[i] as number), w, k + 1, data, at);
      axpy(width, -row.tau * dot(width, data, at, u, k + 1), u, k + 1, data, at);
    }
  }
  return { d, e, left, right };
}

/** `w[from ..< n] = sum_i v[i] A[i, from ..< n]` over rows `k ..< m`, four rows at a time. */
function projectRows(
  data: Float64Array,
  n: number,
  k: number,
  m: number,
  from: number,
  v: Float64Array,
  w: Float64Array,
): void {
  w.fill(0, from);
  let i = k;
  for (; i + 3 < m; i += 4) {
    const v0 = v[i] as number;
    const v1 = v[i + 1] as number;
    const v2 = v[i + 2] as number;
    const v3 = v[i + 3] as number;
    const r0 = i * n;
    const r1 = r0 + n;
    const r2 = r1 + n;
    const r3 = r2 + n;
    for (let j = from; j < n; j++) {
      (w[j] as number) +=
        v0 * (data[r0 + j] as number) +
        v1 * (data[r1 + j] as number) +
        (v2 * (data[r2 + j] as number) + v3 * (data[r3 + j] as number));
    }
  }
  for (; i < m; i++) axpy(n - from, v[i] as number, data, i * n + from, w, from);
}
