import { expect, test } from "vitest";
import { columnDefect, difference, randomMatrix, reference } from "../../../test/matrices.js";
import { TunesmithError } from "../../errors/index.js";
import { fft, fft2, ifft, ifft2 } from "./fft.js";
import { gemm } from "./gemm.js";
import { haar2d, inverseHaar2d } from "./haar.js";
import { frobeniusNorm, matrix, zeros } from "./matrix.js";
import { nearestOrthogonal, procrustes } from "./procrustes.js";
import { khatriRao, kronecker } from "./products.js";
import { qr } from "./qr.js";

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-12): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    expect(Math.abs((actual[i] as number) - (expected[i] as number))).toBeLessThan(tolerance);
  }
}

test("fft equals NumPy's", () => {
  const { re, im, outRe, outIm } = reference.fft;
  const out = fft(re, im);
  expectClose(out.re, outRe);
  expectClose(out.im, outIm);
  const { a, forwardRe, forwardIm, inverseRe, inverseIm } = reference.fft2;
  const forward = fft2(3, 4, a.flat());
  expectClose(forward.re, forwardRe.flat());
  expectClose(forward.im, forwardIm.flat());
  const inverse = ifft2(3, 4, a.flat());
  expectClose(inverse.re, inverseRe.flat());
  expectClose(inverse.im, inverseIm.flat());
});

test.each([0, 1, 2, 3, 8, 97, 100, 256, 1000])("fft of length %i equals its definition and inverts", (n) => {
  const { data: re } = randomMatrix(1, n);
  const { data: im } = randomMatrix(1, n, 1);
  const out = fft(re, im);
  for (const k of [0, 1, n - 1].filter((index) => index >= 0 && index < n)) {
    let real = 0;
    let imaginary = 0;
    for (let j = 0; j < n; j++) {
      const angle = (-2 * Math.PI * ((j * k) % n)) / n;
      real += (re[j] as number) * Math.cos(angle) - (im[j] as number) * Math.sin(angle);
      imaginary += (re[j] as number) * Math.sin(angle) + (im[j] as number) * Math.cos(angle);
    }
    expect(Math.abs((out.re[k] as number) - real)).toBeLessThan(1e-10);
    expect(Math.abs((out.im[k] as number) - imaginary)).toBeLessThan(1e-10);
  }
  const back = ifft(out.re, out.im);
  expectClose(back.re, re);
  expectClose(back.im, im);
  expect(() => fft([1, 2], [1])).toThrow(TunesmithError);
  expect(() => fft2(2, 2, [1])).toThrow(TunesmithError);
});

test("haar: definition, inverse, energy", () => {
  const spectrum = zeros(4, 4);
  spectrum.data[1] = 1; // averages, block (0, 1)
  spectrum.data[2] = 4; // left-right difference, block (0, 0)
  expect([...inverseHaar2d(spectrum).data.slice(0, 8)]).toEqual([2, -2, 0.5, 0.5, 2, -2, 0.5, 0.5]);
  const a = randomMatrix(6, 10);
  expect(difference(inverseHaar2d(haar2d(a)), a)).toBeLessThan(1e-14);
  expect(frobeniusNorm(haar2d(a))).toBeCloseTo(frobeniusNorm(a), 12);
  expect(() => haar2d(zeros(3, 4))).toThrow(/even/);
});

test("kronecker equals NumPy's; khatri-rao is its columns", () => {
  const { a, b, k } = reference.kron;
  expect(difference(kronecker(matrix(a), matrix(b)), matrix(k))).toBeLessThan(1e-14);
  const x = randomMatrix(3, 2);
  const y = randomMatrix(4, 2);
  const both = khatriRao(x, y);
  const full = kronecker(x, y);
  for (let i = 0; i < 12; i++) {
    expect([both.data[2 * i], both.data[2 * i + 1]]).toEqual([full.data[4 * i], full.data[4 * i + 3]]);
  }
  expect(() => khatriRao(zeros(2, 3), zeros(2, 2))).toThrow(TunesmithError);
});

test("procrustes recovers a rotation and a scale", () => {
  const rotation = qr(randomMatrix(6, 6)).q;
  const a = randomMatrix(30, 6, 1);
  const b = gemm(a, rotation);
  const found = procrustes(a, { ...b, data: b.data.map((value) => 3 * value) });
  expect(difference(found.rotation, rotation)).toBeLessThan(1e-12);
  expect(found.scale).toBeCloseTo(3, 12);
  expect(columnDefect(nearestOrthogonal(randomMatrix(9, 5)))).toBeLessThan(1e-12);
  expect(columnDefect(procrustes(zeros(4, 3), zeros(4, 3)).rotation)).toBeLessThan(1e-12);
  expect(() => procrustes(zeros(2, 3), zeros(3, 2))).toThrow(TunesmithError);
});
