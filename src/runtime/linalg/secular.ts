/**
 * SVD of the arrow matrix M (first row z, diagonal d with d[0] = 0), the merge step of divide and conquer
 * (Gu and Eisenstat 1995, "A divide-and-conquer algorithm for the bidiagonal SVD").
 */
export interface ArrowSvd {
  readonly s: Float64Array;
  /** Row i is the left singular vector of `s[i]`. */
  readonly left: Float64Array;
  /** Row i is the right singular vector of `s[i]`. */
  readonly right: Float64Array;
}

const EPS = Number.EPSILON;

/** `d` ascending and distinct, starting at 0; every `z` non-zero. Singular values come out ascending. */
export function arrowSvd(d: Float64Array, z: Float64Array): ArrowSvd {
  const n = d.length;
  const s = new Float64Array(n);
  // gaps[i, j] = d_j^2 - s_i^2, each to full relative accuracy: what keeps the vectors orthogonal.
  const gaps = new Float64Array(n * n);
  for (let i = 0; i < n; i++) s[i] = solveSecular(d, z, i, gaps.subarray(i * n, (i + 1) * n));
  const exact = consistentRow(d, z, gaps);
  const left = new Float64Array(n * n);
  const right = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    let leftNorm = 1;
    let rightNorm = 0;
    for (let j = 0; j < n; j++) {
      const v = (exact[j] as number) / (gaps[row + j] as number);
      const u = j === 0 ? -1 : (d[j] as number) * v;
      right[row + j] = v;
      left[row + j] = u;
      rightNorm += v * v;
      if (j > 0) leftNorm += u * u;
    }
    leftNorm = 1 / Math.sqrt(leftNorm);
    rightNorm = 1 / Math.sqrt(rightNorm);
    for (let j = 0; j < n; j++) {
      (left[row + j] as number) *= leftNorm;
      (right[row + j] as number) *= rightNorm;
    }
  }
  return { s, left, right };
}

/** The row for which the computed values are exact singular values (Gu and Eisenstat, eq. 3.6). */
function consistentRow(d: Float64Array, z: Float64Array, gaps: Float64Array): Float64Array {
  const n = d.length;
  const out = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    const dj = d[j] as number;
    let product = -(gaps[(n - 1) * n + j] as number);
    for (let i = 0; i < n - 1; i++) {
      const other = d[i < j ? i : i + 1] as number;
      product *= -(gaps[i * n + j] as number) / ((other - dj) * (other + dj));
    }
    out[j] = Math.sign(z[j] as number) * Math.sqrt(Math.abs(product));
  }
  return out;
}

/**
 * The i-th root of `f(s) = 1 + sum_j z_j^2 / (d_j^2 - s^2)`, between d_i and d_{i+1}; writes `d_j^2 - s^2`.
 * Works in the offset `x = s^2 - d_o^2` from the nearer pole o, so that a root next to a pole keeps its digits.
 */
function solveSecular(d: Float64Array, z: Float64Array, i: number, gaps: Float64Array): number {
  const n = d.length;
  const last = i === n - 1;
  const di = d[i] as number;
  let norm2 = 0;
  for (let j = 0; j < n; j++) norm2 += (z[j] as number) * (z[j] as number);
  const upper = last ? norm2 : ((d[i + 1] as number) - di) * ((d[i + 1] as number) + di);
  const poles = new Float64Array(n);
  setPoles(poles, d, i);
  let low = 0;
  let high = upper;
  let origin = i;
  if (!last && secular(poles, z, upper / 2, i).f < 0) {
    origin = i + 1;
    setPoles(poles, d, origin);
    low = -upper / 2;
    high = 0;
  } else {
    high = last ? upper : upper / 2;
  }
  const x = refine(poles, z, i, low, high);
  for (let j = 0; j < n; j++) gaps[j] = (poles[j] as number) - x;
  return Math.sqrt(Math.max(0, (d[origin] as number) * (d[origin] as number) + x));
}

function setPoles(poles: Float64Array, d: Float64Array, origin: number): void {
  const o = d[origin] as number;
  for (let j = 0; j < poles.length; j++) poles[j] = ((d[j] as number) - o) * ((d[j] as number) + o);
}

interface SecularValue {
  readonly f: number;
  /** Rounding error bound of `f` in units of EPS. */
  readonly size: number;
  readonly psi: number;
  readonly psiSlope: number;
  readonly phi: number;
  readonly phiSlope: number;
}

/** f at x, split into the poles left of the root (psi, j <= i) and right of it (phi). */
function secular(poles: Float64Array, z: Float64Array, x: number, i: number): SecularValue {
  let psi = 0;
  let psiSlope = 0;
  for (let j = 0; j <= i; j++) {
    const zj = z[j] as number;
    const ratio = zj / ((poles[j] as number) - x);
    psi += zj * ratio;
    psiSlope += ratio * ratio;
  }
  let phi = 0;
  let phiSlope = 0;
  for (let j = i + 1; j < poles.length; j++) {
    const zj = z[j] as number;
    const ratio = zj / ((poles[j] as number) - x);
    phi += zj * ratio;
    phiSlope += ratio * ratio;
  }
  return { f: 1 + psi + phi, size: 1 + Math.abs(psi) + Math.abs(phi), psi, psiSlope, phi, phiSlope };
}

/**
 * Root in (low, high), where f rises from minus to plus infinity: rational interpolation with the two
 * neighbouring poles (Bunch, Nielsen and Sorensen 1978), falling back to bisection when it leaves the bracket.
 */
function refine(poles: Float64Array, z: Float64Array, i: number, lowest: number, highest: number): number {
  let low = lowest;
  let high = highest;
  let x = (low + high) / 2;
  const n = poles.length;
  for (let step = 0; step < 200; step++) {
    const value = secular(poles, z, x, i);
    if (Math.abs(value.f) <= EPS * n * value.size * 0.25) return x;
    if (value.f < 0) low = x;
    else high = x;
    if (high - low <= 2 * EPS * Math.max(Math.abs(low), Math.abs(high))) return x;
    let next = x + interpolatedStep(poles, i, x, value);
    if (!(next > low && next < high)) next = middle(low, high);
    else if (next === x) return x;
    x = next;
  }
  return x;
}

/** Bisects by exponent while the ends differ by orders of magnitude: roots may lie extremely near a pole. */
function middle(low: number, high: number): number {
  const tiny = 1e-200;
  if (low >= 0 && high > 4 * low) return Math.sqrt(Math.max(low, tiny)) * Math.sqrt(high);
  if (high <= 0 && low < 4 * high) return -Math.sqrt(Math.max(-high, tiny)) * Math.sqrt(-low);
  return (low + high) / 2;
}

function interpolatedStep(poles: Float64Array, i: number, x: number, value: SecularValue): number {
  const { f, psi, psiSlope, phi, phiSlope } = value;
  const near = (poles[i] as number) - x;
  const s = near * near * psiSlope;
  if (i === poles.length - 1) return near + s / (1 + psi - near * psiSlope);
  const far = (poles[i + 1] as number) - x;
  const t = far * far * phiSlope;
  const c = 1 + psi - near * psiSlope + phi - far * phiSlope;
  const a = c * (near + far) + s + t;
  const b = f * near * far;
  const root = Math.sqrt(Math.max(0, a * a - 4 * b * c));
  return a <= 0 ? (a - root) / (2 * c) : (2 * b) / (a + root);
}
