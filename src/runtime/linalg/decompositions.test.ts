import { expect, test } from "vitest";
import { columnDefect, difference, randomMatrix, reference } from "../../../test/matrices.js";
import { TunesmithError } from "../../errors/index.js";
import { cholesky } from "./cholesky.js";
import { symmetricEigen } from "./eigh.js";
import { matrixExponential } from "./expm.js";
import { gemm } from "./gemm.js";
import { inversePermutation, ldu, lu } from "./lu.js";
import { identity, type Matrix, type Matrix64, matrix, scaleColumns, transpose, zeros } from "./matrix.js";
import { qr } from "./qr.js";
import { inverse, leastSquares, pseudoInverse, solve } from "./solve.js";

const permuted = (a: Matrix, p: Int32Array): Matrix64 => {
  const out = zeros(a.rows, a.cols);
  p.forEach((from, i) => {
    out.data.set(a.data.subarray(from * a.cols, (from + 1) * a.cols), i * a.cols);
  });
  return out;
};

const symmetric = (n: number): Matrix64 => {
  const a = randomMatrix(n, n);
  const t = transpose(a);
  return { ...a, data: a.data.map((value, p) => value + (t.data[p] as number)) };
};

test.each([
  [1, 1],
  [1, 4],
  [4, 1],
  [33, 33],
  [70, 40],
  [40, 70],
  [0, 3],
])("qr of %ix%i", (rows, cols) => {
  const a = randomMatrix(rows, cols);
  const { q, r } = qr(a);
  expect(difference(gemm(q, r), a)).toBeLessThan(1e-12);
  expect(columnDefect(q)).toBeLessThan(1e-12);
  for (let i = 0; i < r.rows; i++) {
    expect(r.data[i * r.cols + i]).toBeGreaterThanOrEqual(0);
    for (let j = 0; j < Math.min(i, r.cols); j++) expect(r.data[i * r.cols + j]).toBe(0);
  }
});

test("qr equals NumPy's up to signs, and copes with rank 0 and 1", () => {
  const { q, r } = qr(matrix(reference.qr.a));
  expect(difference(q, matrix(reference.qr.q))).toBeLessThan(1e-12);
  expect(difference(r, matrix(reference.qr.r))).toBeLessThan(1e-12);
  for (const a of [zeros(5, 3), gemm(randomMatrix(6, 1), randomMatrix(1, 4))]) {
    const f = qr(a);
    expect(difference(gemm(f.q, f.r), a)).toBeLessThan(1e-12);
    expect(columnDefect(f.q)).toBeLessThan(1e-12);
  }
});

test.each([1, 2, 24, 25, 60, 121])("symmetric eigen of order %i", (n) => {
  const a = symmetric(n);
  const { values, vectors } = symmetricEigen(a);
  expect(difference(gemm(scaleColumns(vectors, values), vectors, { transposeB: true }), a)).toBeLessThan(
    1e-11,
  );
  expect(columnDefect(vectors)).toBeLessThan(1e-12);
  for (let k = 1; k < n; k++) expect(values[k]).toBeLessThanOrEqual(values[k - 1] as number);
});

test("symmetric eigen equals NumPy's; special matrices; refusals", () => {
  const { values } = symmetricEigen(matrix(reference.eigen.a));
  expect(difference(matrix([[...values]]), matrix([reference.eigen.values]))).toBeLessThan(1e-12);
  expect([...symmetricEigen(zeros(40, 40)).values]).toEqual(new Array(40).fill(0));
  expect(symmetricEigen(zeros(0, 0)).values.length).toBe(0);
  for (const value of symmetricEigen(scaleColumns(identity(50), new Array(50).fill(-2))).values) {
    expect(value).toBeCloseTo(-2, 13);
  }
  expect(() =>
    symmetricEigen(
      matrix([
        [1, 2],
        [0, 1],
      ]),
    ),
  ).toThrow(/not symmetric at \(1, 0\)/);
  expect(() => symmetricEigen(zeros(2, 3))).toThrow(TunesmithError);
});

test("lu and ldu", () => {
  const { a, permutation, l, u } = reference.lu;
  const f = lu(matrix(a));
  expect([...f.permutation]).toEqual(permutation);
  expect(difference(f.l, matrix(l))).toBeLessThan(1e-12);
  expect(difference(f.u, matrix(u))).toBeLessThan(1e-12);
  for (const [rows, cols] of [
    [1, 3],
    [3, 1],
    [20, 12],
    [12, 20],
    [0, 0],
  ] as const) {
    const x = randomMatrix(rows, cols);
    const g = ldu(x);
    expect(difference(gemm(scaleColumns(g.l, g.d), g.u), permuted(x, g.permutation))).toBeLessThan(1e-12);
    expect(difference(permuted(permuted(x, g.permutation), inversePermutation(g.permutation)), x)).toBe(0);
    for (let k = 0; k < g.d.length; k++)
      expect([g.l.data[k * g.l.cols + k], g.u.data[k * cols + k]]).toEqual([1, 1]);
  }
  const singular = matrix([
    [1, 2],
    [2, 4],
  ]);
  const s = lu(singular);
  expect(difference(gemm(s.l, s.u), permuted(singular, s.permutation))).toBe(0);
  expect(() => ldu(singular)).toThrow(/singular/);
});

test("cholesky", () => {
  expect(difference(cholesky(matrix(reference.cholesky.a)), matrix(reference.cholesky.l))).toBeLessThan(
    1e-12,
  );
  const b = randomMatrix(50, 40);
  const gram = gemm(b, b, { transposeA: true });
  const l = cholesky(gram);
  expect(difference(gemm(l, l, { transposeB: true }), gram)).toBeLessThan(1e-11);
  expect(() =>
    cholesky(
      matrix([
        [1, 2],
        [2, 1],
      ]),
    ),
  ).toThrow(/pivot 1 is -3/);
  expect(() => cholesky(zeros(2, 2))).toThrow(TunesmithError);
});

test("solve and inverse", () => {
  const a = matrix(reference.lu.a);
  expect(difference(inverse(a), matrix(reference.inverse))).toBeLessThan(1e-11);
  const b = randomMatrix(45, 45);
  const x = randomMatrix(45, 3);
  expect(difference(solve(b, gemm(b, x)), x)).toBeLessThan(1e-10);
  expect(difference(gemm(inverse(b), b), identity(45))).toBeLessThan(1e-10);
  expect(() =>
    inverse(
      matrix([
        [1, 2],
        [2, 4],
      ]),
    ),
  ).toThrow(/singular/);
  expect(() => inverse(zeros(3, 3))).toThrow(TunesmithError);
  expect(() => solve(b, zeros(3, 1))).toThrow(TunesmithError);
});

test("pseudo-inverse and least squares", () => {
  for (const { a, p } of reference.pinv) {
    expect(difference(pseudoInverse(matrix(a)), matrix(p))).toBeLessThan(1e-11);
  }
  const { a, b, x } = reference.leastSquares;
  expect(difference(leastSquares(matrix(a), matrix(b)), matrix(x))).toBeLessThan(1e-11);
  expect(difference(pseudoInverse(zeros(3, 2)), zeros(2, 3))).toBe(0);
  // Underdetermined: the solution of least norm lies in the row space.
  expect(difference(leastSquares(matrix([[1, 1]]), matrix([[2]])), matrix([[1], [1]]))).toBeLessThan(1e-14);
});

test("matrix exponential", () => {
  for (const { a, e } of reference.expm) {
    const expected = matrix(e);
    const size = Math.max(...expected.data.map(Math.abs));
    expect(difference(matrixExponential(matrix(a)), expected)).toBeLessThan(1e-12 * size);
  }
  const a = randomMatrix(12, 12);
  const skew = { ...a, data: a.data.map((value, p) => value - (transpose(a).data[p] as number)) };
  expect(columnDefect(matrixExponential(skew))).toBeLessThan(1e-12);
  expect(difference(matrixExponential(zeros(3, 3)), identity(3))).toBeLessThan(1e-15);
  expect(() => matrixExponential(matrix([[1000]]))).toThrow(/overflow/);
});
