import { TunesmithError } from "../../errors/index.js";
import { axpy, dot, rotate, scale } from "./vector.js";

/** SVD of a bidiagonal matrix, vectors as rows; `vt` has one more row than `s` when the matrix is wide. */
export interface BidiagonalSvd {
  readonly s: Float64Array;
  readonly ut: Float64Array;
  readonly vt: Float64Array;
}

const EPS = Number.EPSILON;
const SWEEPS = 60;

/**
 * SVD of a small upper bidiagonal matrix, `[n, n]` or (with `wide`) `[n, n + 1]`, by one-sided Jacobi rotations
 * of its columns (Hestenes 1958): slow for large n, but accurate and simple; the leaves of divide and conquer.
 */
export function jacobiBidiagonal(d: Float64Array, e: Float64Array, wide: boolean): BidiagonalSvd {
  const n = d.length;
  const width = n + (wide ? 1 : 0);
  const columns = new Float64Array(width * n);
  const vectors = new Float64Array(width * width);
  for (let j = 0; j < width; j++) {
    vectors[j * width + j] = 1;
    if (j < n) columns[j * n + j] = d[j] as number;
    if (j > 0) columns[j * n + j - 1] = e[j - 1] as number;
  }
  orthogonaliseRows(columns, width, n, vectors);
  return sortAndComplete(columns, vectors, n, width);
}

/** Rotates pairs of rows of `w` `[count, n]` until all are orthogonal; the same rotations act on `v`. */
function orthogonaliseRows(w: Float64Array, count: number, n: number, v: Float64Array): void {
  const negligible = (EPS * Math.sqrt(dot(w.length, w, 0, w, 0))) ** 2;
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    let rotated = false;
    for (let p = 0; p < count - 1; p++) {
      for (let q = p + 1; q < count; q++) {
        const alpha = dot(n, w, p * n, w, p * n);
        const beta = dot(n, w, q * n, w, q * n);
        const gamma = dot(n, w, p * n, w, q * n);
        if (Math.min(alpha, beta) <= negligible || Math.abs(gamma) <= 4 * EPS * Math.sqrt(alpha * beta))
          continue;
        rotated = true;
        const zeta = (beta - alpha) / (2 * gamma);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const c = 1 / Math.sqrt(1 + t * t);
        rotate(n, c, -c * t, w, p * n, w, q * n);
        rotate(count, c, -c * t, v, p * count, v, q * count);
      }
    }
    if (!rotated) return;
  }
  throw new TunesmithError(
    "numerical-failure",
    `svd: Jacobi rotations did not converge in ${SWEEPS} sweeps`,
    {
      fix: "rescale the matrix",
    },
  );
}

/** Singular values from row norms, largest first; left vectors of vanishing ones by Gram-Schmidt. */
function sortAndComplete(w: Float64Array, v: Float64Array, n: number, width: number): BidiagonalSvd {
  const norms = Array.from({ length: width }, (_, j) => Math.sqrt(dot(n, w, j * n, w, j * n)));
  const order = norms.map((_, j) => j).sort((i, j) => (norms[j] as number) - (norms[i] as number));
  const s = new Float64Array(n);
  const ut = new Float64Array(n * n);
  const vt = new Float64Array(width * width);
  const floor = 2 * EPS * (norms[order[0] as number] as number) * Math.sqrt(n);
  for (let k = 0; k < width; k++) {
    const j = order[k] as number;
    vt.set(v.subarray(j * width, (j + 1) * width), k * width);
    if (k >= n) continue;
    const norm = norms[j] as number;
    if (norm > floor) {
      s[k] = norm;
      ut.set(w.subarray(j * n, (j + 1) * n), k * n);
      scale(n, 1 / norm, ut, k * n);
    } else {
      completeRow(ut, k, n);
    }
  }
  return { s, ut, vt };
}

/** Fills row k with a unit vector orthogonal to rows `0 ..< k`. */
export function completeRow(rows: Float64Array, k: number, n: number): void {
  for (let axis = 0; axis < n; axis++) {
    const row = rows.subarray(k * n, (k + 1) * n).fill(0);
    row[axis] = 1;
    for (let pass = 0; pass < 2; pass++) {
      for (let i = 0; i < k; i++) axpy(n, -dot(n, rows, i * n, row, 0), rows, i * n, row, 0);
    }
    const norm = Math.sqrt(dot(n, row, 0, row, 0));
    // Some axis keeps at least this much: the n - k missing dimensions share norm sqrt(n - k) over n axes.
    if (norm < 0.5 / Math.sqrt(n)) continue;
    scale(n, 1 / norm, row, 0);
    return;
  }
}
