/** A Fourier transform of one size, and its working memory. */
export interface Fft {
  readonly size: number;
  /** The squared magnitudes of the first `size / 2 + 1` frequencies of real input, into `out`. */
  power(input: Float64Array, out: Float64Array): void;
}

/**
 * A Fourier transform of any size by mixed radix (Cooley and Tukey 1965): fast where the size has small prime factors, as
 * 400, which speech models use, has.
 */
export function createFft(size: number): Fft {
  const cos = Float64Array.from({ length: size }, (_, k) => Math.cos((2 * Math.PI * k) / size));
  const sin = Float64Array.from({ length: size }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
  const factors = factorsOf(size);
  const [re, im] = [new Float64Array(size), new Float64Array(size)];
  const most = Math.max(1, ...factors);
  const [partRe, partIm] = [new Float64Array(most), new Float64Array(most)];

  /** Transforms `n` inputs that lie `stride` apart into the outputs from `to` on. */
  const transform = (
    input: Float64Array,
    n: number,
    stride: number,
    from: number,
    to: number,
    level: number,
  ) => {
    if (n === 1) {
      re[to] = input[from] as number;
      im[to] = 0;
      return;
    }
    const radix = factors[level] as number;
    const part = n / radix;
    for (let q = 0; q < radix; q++) {
      transform(input, part, stride * radix, from + q * stride, to + q * part, level + 1);
    }
    for (let k = 0; k < part; k++) {
      for (let q = 0; q < radix; q++) {
        const twiddle = (q * k * stride) % size;
        const [c, s] = [cos[twiddle] as number, sin[twiddle] as number];
        const at = to + q * part + k;
        partRe[q] = (re[at] as number) * c - (im[at] as number) * s;
        partIm[q] = (re[at] as number) * s + (im[at] as number) * c;
      }
      for (let r = 0; r < radix; r++) {
        let [sumRe, sumIm] = [0, 0];
        for (let q = 0; q < radix; q++) {
          const twiddle = (q * r * part * stride) % size;
          const [c, s] = [cos[twiddle] as number, sin[twiddle] as number];
          sumRe += (partRe[q] as number) * c - (partIm[q] as number) * s;
          sumIm += (partRe[q] as number) * s + (partIm[q] as number) * c;
        }
        re[to + r * part + k] = sumRe;
        im[to + r * part + k] = sumIm;
      }
    }
  };

  return {
    size,
    power(input, out) {
      transform(input, size, 1, 0, 0, 0);
      for (let k = 0; k <= size >> 1; k++) out[k] = (re[k] as number) ** 2 + (im[k] as number) ** 2;
    },
  };
}

function factorsOf(size: number): number[] {
  const factors: number[] = [];
  let rest = size;
  for (let factor = 2; rest > 1; factor++) {
    for (; rest % factor === 0; rest /= factor) factors.push(factor);
  }
  return factors;
}
