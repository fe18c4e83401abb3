import { expect, test } from "vitest";
import { rng } from "../random/index.js";
import { gemm } from "./gemm.js";
import { orthogonalColumns } from "./random-orthogonal.js";

const normals = (seed: number) => (index: number, count: number) =>
  rng(seed, index).fillNormal(new Float64Array(count));

test("all columns are an orthogonal matrix, and one alone is what it is among all", () => {
  const n = 24;
  const every = Array.from({ length: n }, (_, at) => at);
  const all = orthogonalColumns(n, every, normals(1));
  const gram = gemm(all, all, { transposeB: true }).data;
  gram.forEach((value, at) => {
    expect(value).toBeCloseTo(at % (n + 1) === 0 ? 1 : 0, 12);
  });
  const some = orthogonalColumns(n, [17, 3], normals(1));
  expect([...some.data.subarray(0, n)]).toEqual([...all.data.subarray(17 * n, 18 * n)]);
  expect([...some.data.subarray(n)]).toEqual([...all.data.subarray(3 * n, 4 * n)]);
  expect(orthogonalColumns(n, [3], normals(2)).data).not.toEqual(some.data.subarray(n));
});

test("entries average to zero with variance 1 / n", () => {
  const n = 6;
  const entries = Array.from({ length: 400 }, (_, seed) => orthogonalColumns(n, [0, 4], normals(seed)).data);
  for (const at of [0, 5, 6, 10]) {
    const values = entries.map((data) => data[at] as number);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const square = values.reduce((sum, value) => sum + value * value, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.08);
    expect(Math.abs(square * n - 1)).toBeLessThan(0.2);
  }
});
