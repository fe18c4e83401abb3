import { expect, test } from "vitest";
import {
  columnDefect,
  difference,
  randomMatrix,
  reference,
  rowDefect,
  withSingularValues,
} from "../../../test/matrices.js";
import { TunesmithError } from "../../errors/index.js";
import { gemm } from "./gemm.js";
import { identity, type Matrix, matrix, maxAbs, scaleColumns, zeros } from "./matrix.js";
import { qr } from "./qr.js";
import { numericalRank, svd } from "./svd.js";

function expectSvd(a: Matrix): Float64Array {
  const { u, s, vt } = svd(a);
  const r = Math.min(a.rows, a.cols);
  expect([u.rows, u.cols, s.length, vt.rows, vt.cols]).toEqual([a.rows, r, r, r, a.cols]);
  const size = (maxAbs(a) || 1) * Math.max(1, a.rows, a.cols);
  expect(difference(gemm(scaleColumns(u, s), vt), a)).toBeLessThan(1e-14 * size);
  expect(columnDefect(u)).toBeLessThan(1e-12);
  expect(rowDefect(vt)).toBeLessThan(1e-12);
  for (let k = 0; k < r; k++) {
    expect(s[k]).toBeGreaterThanOrEqual(0);
    if (k > 0) expect(s[k]).toBeLessThanOrEqual(s[k - 1] as number);
    const column = Array.from({ length: a.rows }, (_, i) => u.data[i * r + k] as number);
    const largest = Math.max(...column.map(Math.abs));
    expect(Math.max(...column)).toBe(largest);
  }
  return s;
}

test("equals NumPy's", () => {
  for (const c of reference.svd) {
    const { u, s, vt } = svd(matrix(c.a));
    expect(difference(u, matrix(c.u))).toBeLessThan(1e-12);
    expect(difference(matrix([[...s]]), matrix([c.s]))).toBeLessThan(1e-12);
    expect(difference(vt, matrix(c.vt))).toBeLessThan(1e-12);
  }
});

test.each([
  [1, 1],
  [1, 7],
  [7, 1],
  [2, 2],
  [24, 24],
  [25, 25],
  [26, 25],
  [50, 49],
  [51, 51],
  [60, 90],
  [200, 40],
  [40, 200],
  [130, 130],
])("random %ix%i", (rows, cols) => {
  expectSvd(randomMatrix(rows, cols));
});

test("sizes of zero", () => {
  for (const [rows, cols] of [
    [0, 0],
    [0, 3],
    [3, 0],
  ] as const) {
    const { u, s, vt } = svd(zeros(rows, cols));
    expect([u.rows, u.cols, s.length, vt.rows, vt.cols]).toEqual([rows, 0, 0, 0, cols]);
  }
});

test("zero, identity, constant and rank-deficient matrices", () => {
  expect(maxAbs(matrix([[...expectSvd(zeros(60, 45))]]))).toBe(0);
  for (const value of expectSvd(identity(70))) expect(Math.abs(value - 1)).toBeLessThan(1e-13);
  const ones = { rows: 60, cols: 60, data: new Float64Array(3600).fill(1) };
  expect(Math.abs((expectSvd(ones)[0] as number) - 60)).toBeLessThan(1e-11);
  const deficient = gemm(randomMatrix(80, 5), randomMatrix(5, 70));
  expectSvd(deficient);
  expect(numericalRank(deficient)).toBe(5);
});

test("block diagonal with zero blocks, one non-zero entry, and a zero row in the middle", () => {
  const blocks = zeros(64, 64);
  for (let i = 40; i < 64; i++) for (let j = 40; j < 64; j++) blocks.data[i * 64 + j] = Math.sin(i * j);
  expectSvd(blocks);
  const single = zeros(50, 50);
  single.data[31 * 50 + 7] = -3;
  expect(expectSvd(single)[0]).toBeCloseTo(3, 13);
  const bidiagonal = zeros(60, 60);
  for (let i = 0; i < 60; i++) {
    if (i !== 30) bidiagonal.data[i * 61] = 1;
    if (i < 59 && i !== 30) bidiagonal.data[i * 61 + 1] = 1;
  }
  expectSvd(bidiagonal);
});

test("graded, clustered, Hilbert and tiny or huge scales", () => {
  const orthogonal = (a: Matrix) => qr(a).q;
  const graded = Array.from({ length: 90 }, (_, i) => 10 ** (-i / 6));
  const values = expectSvd(withSingularValues(100, 90, graded, orthogonal));
  graded.forEach((value, i) => {
    expect(Math.abs((values[i] as number) - value)).toBeLessThan(1e-14);
  });
  expectSvd(
    withSingularValues(
      90,
      100,
      Array.from({ length: 90 }, (_, i) => 1 + (i % 3)),
      orthogonal,
    ),
  );
  expectSvd(
    withSingularValues(
      90,
      90,
      Array.from({ length: 90 }, (_, i) => 1 + i * 1e-14),
      orthogonal,
    ),
  );
  const n = 60;
  const hilbert = Float64Array.from({ length: n * n }, (_, p) => 1 / (1 + Math.floor(p / n) + (p % n)));
  expectSvd({ rows: n, cols: n, data: hilbert });
  for (const factor of [1e-300, 1e300]) {
    expectSvd({ rows: 40, cols: 30, data: randomMatrix(40, 30).data.map((value) => value * factor) });
  }
});

test("single precision input, determinism, and refusals", () => {
  const a: Matrix = { rows: 30, cols: 28, data: Float32Array.from(randomMatrix(30, 28).data) };
  expectSvd(a);
  expect(svd(a)).toEqual(svd(a));
  expect(() => svd(matrix([[1, Number.NaN]]))).toThrow(/entry \(0, 1\) is NaN/);
  expect(() => svd(matrix([[Number.POSITIVE_INFINITY]]))).toThrow(TunesmithError);
  expect(() => svd({ rows: 2, cols: 2, data: new Float64Array(3) })).toThrow(TunesmithError);
});
