import { block, gemmAdd } from "./gemm.js";
import { type BidiagonalSvd, jacobiBidiagonal } from "./jacobi.js";
import { arrowSvd } from "./secular.js";
import { argMaxAbs, axpy, rotate, scale } from "./vector.js";

const EPS = Number.EPSILON;
const LEAF = 24;

/**
 * SVD of the upper bidiagonal matrix with diagonal `d` and superdiagonal `e`: `[n, n]` when `e` has n - 1
 * entries, `[n, n + 1]` when it has n. Divide and conquer with deflation (Gu and Eisenstat 1995; LAPACK's
 * dbdsdc): most of its work is matrix products, unlike that of QR iteration. Values in no particular order.
 */
export function bidiagonalSvd(d: Float64Array, e: Float64Array): BidiagonalSvd {
  const n = d.length;
  const wide = n > 0 && e.length === n;
  if (n <= LEAF) return jacobiBidiagonal(d, e, wide);
  const k = n >> 1;
  const top = bidiagonalSvd(d.subarray(0, k), e.subarray(0, k));
  const bottom = bidiagonalSvd(d.subarray(k + 1), e.subarray(k + 1));
  return merge(k, d[k] as number, e[k] as number, top, bottom, wide);
}

/** The two halves as one problem: an arrow matrix (first row `z`, diagonal `d`) between two orthogonal bases. */
interface Joined {
  readonly n: number;
  readonly width: number;
  /** Rows of the left basis `[n, n]` and of the right basis `[n, width]`. */
  readonly left: Float64Array;
  readonly right: Float64Array;
  readonly d: Float64Array;
  readonly z: Float64Array;
  /** Which halves a basis row lives in: bit 1 top, bit 2 bottom. */
  readonly halves: Uint8Array;
}

function merge(
  k: number,
  alpha: number,
  beta: number,
  top: BidiagonalSvd,
  bottom: BidiagonalSvd,
  wide: boolean,
): BidiagonalSvd {
  const n = k + 1 + bottom.s.length;
  const width = n + (wide ? 1 : 0);
  const vt = new Float64Array(width * width);
  const joined = join(k, n, width, alpha, beta, top, bottom, vt);
  const active = deflate(joined, 8 * EPS * Math.max(Math.abs(alpha), Math.abs(beta), largest(joined.d)));
  const solved = arrowSvd(active.map(pick(joined.d)), active.map(pick(joined.z)));
  const s = new Float64Array(n);
  const ut = new Float64Array(n * n);
  s.set(solved.s);
  multiplyHalves(active, solved.left, joined.left, joined.halves, ut, n, k, k + 1);
  for (let i = 0; i < active.length; i++) ut[i * n + k] = solved.left[i * active.length] as number;
  multiplyHalves(active, solved.right, joined.right, joined.halves, vt, width, k + 1, k + 1);
  const isActive = new Uint8Array(n);
  for (const j of active) isActive[j] = 1;
  let row = active.length;
  for (let j = 0; j < n; j++) {
    if (isActive[j]) continue;
    s[row] = joined.d[j] as number;
    ut.set(joined.left.subarray(j * n, (j + 1) * n), row * n);
    vt.set(joined.right.subarray(j * width, (j + 1) * width), row * width);
    row++;
  }
  return { s, ut, vt };
}

const pick = (values: Float64Array) => (index: number) => values[index] as number;

function largest(values: Float64Array): number {
  return Math.abs(values[argMaxAbs(values.length, values, 0, 1)] as number);
}

/** Builds the arrow problem; writes the null vector of a wide matrix into the last row of `vt`. */
function join(
  k: number,
  n: number,
  width: number,
  alpha: number,
  beta: number,
  top: BidiagonalSvd,
  bottom: BidiagonalSvd,
  vt: Float64Array,
): Joined {
  const topWidth = k + 1;
  const bottomWidth = width - topWidth;
  const bottomRows = n - k - 1;
  const left = new Float64Array(n * n);
  const right = new Float64Array(n * width);
  const d = new Float64Array(n);
  const z = new Float64Array(n);
  const halves = new Uint8Array(n);
  left[k] = 1;
  halves[0] = 3;
  for (let i = 0; i < k; i++) {
    const row = i + 1;
    d[row] = top.s[i] as number;
    z[row] = alpha * (top.vt[i * topWidth + k] as number);
    halves[row] = 1;
    left.set(top.ut.subarray(i * k, (i + 1) * k), row * n);
    right.set(top.vt.subarray(i * topWidth, (i + 1) * topWidth), row * width);
  }
  for (let i = 0; i < bottomRows; i++) {
    const row = k + 1 + i;
    d[row] = bottom.s[i] as number;
    z[row] = beta * (bottom.vt[i * bottomWidth] as number);
    halves[row] = 2;
    left.set(bottom.ut.subarray(i * bottomRows, (i + 1) * bottomRows), row * n + k + 1);
    right.set(bottom.vt.subarray(i * bottomWidth, (i + 1) * bottomWidth), row * width + topWidth);
  }
  // The null vectors of both halves meet the middle row; one rotation leaves it a single component.
  const topNull = top.vt.subarray(k * topWidth);
  const first = alpha * (topNull[k] as number);
  z[0] = first;
  right.set(topNull, 0);
  if (bottomWidth > bottomRows) {
    const bottomNull = bottom.vt.subarray(bottomRows * bottomWidth);
    const second = beta * (bottomNull[0] as number);
    const radius = Math.hypot(first, second);
    const c = radius === 0 ? 1 : first / radius;
    const sn = radius === 0 ? 0 : second / radius;
    z[0] = radius;
    scale(topWidth, c, right, 0);
    right.set(bottomNull, topWidth);
    scale(bottomWidth, sn, right, topWidth);
    const nullRow = (width - 1) * width;
    axpy(topWidth, -sn, topNull, 0, vt, nullRow);
    axpy(bottomWidth, c, bottomNull, 0, vt, nullRow + topWidth);
  }
  return { n, width, left, right, d, z, halves };
}

/**
 * Finds the rows that already are singular vectors up to `tolerance` (vanishing z), rotating rows with
 * coinciding d so that one of each pair becomes such a row. Returns the others, by ascending d, row 0 first.
 */
function deflate(joined: Joined, tolerance: number): Float64Array {
  const { n, width, left, right, d, z, halves } = joined;
  const order = Array.from({ length: n - 1 }, (_, j) => j + 1).sort(
    (a, b) => (d[a] as number) - (d[b] as number),
  );
  const active = [0];
  for (const j of order) {
    if (Math.abs(z[j] as number) <= tolerance) continue;
    const previous = active[active.length - 1] as number;
    if ((d[j] as number) - (d[previous] as number) > tolerance) {
      active.push(j);
      continue;
    }
    const radius = Math.hypot(z[previous] as number, z[j] as number);
    const c = (z[j] as number) / radius;
    const s = (z[previous] as number) / radius;
    const both = (halves[j] as number) | (halves[previous] as number);
    if (previous === 0) {
      // Row 0 has no left partner of its own: move z_j into z_0 and call d_j zero.
      rotate(width, s, c, right, 0, right, j * width);
      d[j] = 0;
      z[0] = radius;
      z[j] = 0;
      halves[j] = 3;
      continue;
    }
    rotate(n, c, s, left, j * n, left, previous * n);
    rotate(width, c, s, right, j * width, right, previous * width);
    z[j] = radius;
    z[previous] = 0;
    halves[j] = both;
    halves[previous] = both;
    active[active.length - 1] = j;
  }
  // z_0 must not vanish; the floor keeps its square representable when this whole sub-problem is zero.
  if (Math.abs(z[0] as number) <= tolerance) z[0] = Math.max(tolerance, 1e-140);
  return Float64Array.from(active);
}

/**
 * `out[0 ..< active] = coefficients * basis[active]`, skipping the half of the basis rows that are zero in the
 * left (columns below `topEnd`) and right (columns from `bottomStart`) part of the columns.
 */
function multiplyHalves(
  active: Float64Array,
  coefficients: Float64Array,
  basis: Float64Array,
  halves: Uint8Array,
  out: Float64Array,
  width: number,
  topEnd: number,
  bottomStart: number,
): void {
  const count = active.length;
  for (const [bit, start, end] of [
    [1, 0, topEnd],
    [2, bottomStart, width],
  ] as const) {
    const used = Array.from(active.keys()).filter(
      (index) => (halves[active[index] as number] as number) & bit,
    );
    const cols = end - start;
    const rows = new Float64Array(used.length * cols);
    const weights = new Float64Array(count * used.length);
    used.forEach((index, p) => {
      const from = (active[index] as number) * width;
      rows.set(basis.subarray(from + start, from + end), p * cols);
      for (let i = 0; i < count; i++)
        weights[i * used.length + p] = coefficients[i * count + index] as number;
    });
    gemmAdd(count, cols, used.length, 1, block(weights, used.length), block(rows, cols), {
      data: out,
      offset: start,
      rowStride: width,
    });
  }
}
