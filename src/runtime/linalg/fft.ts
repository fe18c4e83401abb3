import { shapeError } from "./matrix.js";

/** A complex vector, or a row-major complex matrix, as two arrays of one length. */
export interface Complex {
  readonly re: Float64Array;
  readonly im: Float64Array;
}

/**
 * Discrete Fourier transform of any length n: `X_k = sum_j x_j exp(-2 pi i j k / n)`, O(n log n) also for prime n
 * (Bluestein 1970). Own code: fft.js 4.0 does powers of two only and ships no types.
 *
 * @param im default all zero
 * @throws `shape-mismatch` when the two parts differ in length.
 * @example
 * ```ts
 * import { fft } from "tunesmith/runtime";
 * const { re } = fft([1, 0, 0]); // [1, 1, 1]
 * ```
 */
export function fft(re: ArrayLike<number>, im?: ArrayLike<number>): Complex {
  const x = copy(re, im);
  transform(x.re, x.im);
  return x;
}

/** Inverse of `fft`: `x_j = (1 / n) sum_k X_k exp(2 pi i j k / n)`. */
export function ifft(re: ArrayLike<number>, im?: ArrayLike<number>): Complex {
  const x = copy(re, im);
  // Exchanging the parts conjugates the transform.
  transform(x.im, x.re);
  divide(x, x.re.length);
  return x;
}

/**
 * Two-dimensional transform of a row-major `[rows, cols]` array, unscaled as `numpy.fft.fft2`.
 *
 * @throws `shape-mismatch` when the length is not `rows * cols`.
 * @example
 * ```ts
 * import { ifft2 } from "tunesmith/runtime";
 * const deltaWeight = ifft2(2, 3, [6, 0, 0, 0, 0, 0]).re; // all ones
 * ```
 */
export function fft2(rows: number, cols: number, re: ArrayLike<number>, im?: ArrayLike<number>): Complex {
  const x = copy(re, im);
  transform2(rows, cols, x.re, x.im);
  return x;
}

/** Inverse of `fft2`, divided by `rows * cols` as `numpy.fft.ifft2`. */
export function ifft2(rows: number, cols: number, re: ArrayLike<number>, im?: ArrayLike<number>): Complex {
  const x = copy(re, im);
  transform2(rows, cols, x.im, x.re);
  divide(x, rows * cols);
  return x;
}

function copy(re: ArrayLike<number>, im?: ArrayLike<number>): Complex {
  if (im && im.length !== re.length) shapeError("fft", `${re.length} real and ${im.length} imaginary parts`);
  return { re: Float64Array.from(re), im: im ? Float64Array.from(im) : new Float64Array(re.length) };
}

function divide({ re, im }: Complex, by: number): void {
  for (let i = 0; i < re.length; i++) {
    (re[i] as number) /= by;
    (im[i] as number) /= by;
  }
}

function transform2(rows: number, cols: number, re: Float64Array, im: Float64Array): void {
  if (re.length !== rows * cols)
    shapeError("fft2", `${re.length} numbers cannot form a ${rows}x${cols} array`);
  const rowPlan = plan(cols);
  for (let i = 0; i < rows; i++) {
    rowPlan(re.subarray(i * cols, (i + 1) * cols), im.subarray(i * cols, (i + 1) * cols));
  }
  const columnPlan = plan(rows);
  const columnRe = new Float64Array(rows);
  const columnIm = new Float64Array(rows);
  for (let j = 0; j < cols; j++) {
    for (let i = 0; i < rows; i++) {
      columnRe[i] = re[i * cols + j] as number;
      columnIm[i] = im[i * cols + j] as number;
    }
    columnPlan(columnRe, columnIm);
    for (let i = 0; i < rows; i++) {
      re[i * cols + j] = columnRe[i] as number;
      im[i * cols + j] = columnIm[i] as number;
    }
  }
}

function transform(re: Float64Array, im: Float64Array): void {
  plan(re.length)(re, im);
}

type InPlace = (re: Float64Array, im: Float64Array) => void;

/** Prepares the roots of unity of one length; the result transforms in place. */
function plan(n: number): InPlace {
  if (n < 2) return () => {};
  return (n & (n - 1)) === 0 ? radix2(n) : bluestein(n);
}

function radix2(n: number): InPlace {
  const cos = new Float64Array(n / 2);
  const sin = new Float64Array(n / 2);
  for (let i = 0; i < n / 2; i++) {
    cos[i] = Math.cos((2 * Math.PI * i) / n);
    sin[i] = -Math.sin((2 * Math.PI * i) / n);
  }
  return (re, im) => {
    reverseBits(re, im, n);
    for (let half = 1; half < n; half *= 2) {
      const stride = n / (2 * half);
      for (let start = 0; start < n; start += 2 * half) {
        for (let j = 0, w = 0; j < half; j++, w += stride) {
          const p = start + j;
          const q = p + half;
          const qr = (re[q] as number) * (cos[w] as number) - (im[q] as number) * (sin[w] as number);
          const qi = (re[q] as number) * (sin[w] as number) + (im[q] as number) * (cos[w] as number);
          re[q] = (re[p] as number) - qr;
          im[q] = (im[p] as number) - qi;
          (re[p] as number) += qr;
          (im[p] as number) += qi;
        }
      }
    }
  };
}

function reverseBits(re: Float64Array, im: Float64Array, n: number): void {
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i >= j) continue;
    [re[i], re[j]] = [re[j] as number, re[i] as number];
    [im[i], im[j]] = [im[j] as number, im[i] as number];
  }
}

/** Any length as a convolution with the chirp `exp(-pi i j^2 / n)`, done at a power of two. */
function bluestein(n: number): InPlace {
  const size = 2 ** Math.ceil(Math.log2(2 * n - 1));
  const inner = radix2(size);
  const cos = new Float64Array(n);
  const sin = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    // j^2 modulo 2n keeps the angle small and so exact.
    const angle = (Math.PI * ((j * j) % (2 * n))) / n;
    cos[j] = Math.cos(angle);
    sin[j] = Math.sin(angle);
  }
  const chirpRe = new Float64Array(size);
  const chirpIm = new Float64Array(size);
  for (let j = 0; j < n; j++) {
    chirpRe[j] = cos[j] as number;
    chirpIm[j] = sin[j] as number;
    if (j === 0) continue;
    chirpRe[size - j] = cos[j] as number;
    chirpIm[size - j] = sin[j] as number;
  }
  inner(chirpRe, chirpIm);
  const ar = new Float64Array(size);
  const ai = new Float64Array(size);
  return (re, im) => {
    ar.fill(0);
    ai.fill(0);
    for (let j = 0; j < n; j++) {
      ar[j] = (re[j] as number) * (cos[j] as number) + (im[j] as number) * (sin[j] as number);
      ai[j] = (im[j] as number) * (cos[j] as number) - (re[j] as number) * (sin[j] as number);
    }
    inner(ar, ai);
    for (let j = 0; j < size; j++) {
      const real = (ar[j] as number) * (chirpRe[j] as number) - (ai[j] as number) * (chirpIm[j] as number);
      ai[j] = (ar[j] as number) * (chirpIm[j] as number) + (ai[j] as number) * (chirpRe[j] as number);
      ar[j] = real;
    }
    inner(ai, ar);
    for (let j = 0; j < n; j++) {
      re[j] = ((ar[j] as number) * (cos[j] as number) + (ai[j] as number) * (sin[j] as number)) / size;
      im[j] = ((ai[j] as number) * (cos[j] as number) - (ar[j] as number) * (sin[j] as number)) / size;
    }
  };
}
