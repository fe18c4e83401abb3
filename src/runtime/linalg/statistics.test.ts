import { expect, test } from "vitest";
import { difference, randomMatrix, reference } from "../../../test/matrices.js";
import { TunesmithError } from "../../errors/index.js";
import {
  knnAffinity,
  linearAffinity,
  nearestNeighbours,
  pairwiseDistances,
  rbfAffinity,
} from "./affinity.js";
import { bootstrapInterval } from "./bootstrap.js";
import { linearCka } from "./cka.js";
import { gemm } from "./gemm.js";
import { matrix, zeros } from "./matrix.js";
import { qr } from "./qr.js";
import { silhouette } from "./silhouette.js";
import { sinkhorn } from "./sinkhorn.js";

test("sinkhorn equals the plain iteration; small regularisation gives the assignment", () => {
  const { cost, regularisation, plan } = reference.sinkhorn;
  const found = sinkhorn(matrix(cost), { regularisation });
  expect(found.converged).toBe(true);
  expect(difference(found.plan, matrix(plan))).toBeLessThan(1e-8);
  const sharp = sinkhorn(
    matrix([
      [0, 9, 5],
      [8, 9, 1],
      [3, 0, 7],
    ]),
    { regularisation: 1e-3 },
  );
  const third = 1 / 3;
  expect(
    difference(
      sharp.plan,
      matrix([
        [third, 0, 0],
        [0, 0, third],
        [0, third, 0],
      ]),
    ),
  ).toBeLessThan(1e-9);
  const even = sinkhorn(
    matrix([
      [0, 1],
      [1, 0],
    ]),
    { regularisation: 1e9, rowSums: [0.25, 0.75] },
  );
  expect(
    difference(
      even.plan,
      matrix([
        [0.125, 0.125],
        [0.375, 0.375],
      ]),
    ),
  ).toBeLessThan(1e-8);
});

test("sinkhorn with unequal masses: rows win; refusals", () => {
  const { plan, converged } = sinkhorn(
    matrix([
      [0, 1, 2],
      [1, 0, 1],
    ]),
    {
      regularisation: 0.5,
      columnSums: [0.5, 0.5, 0.5],
      maxIterations: 50,
    },
  );
  expect(converged).toBe(false);
  for (const i of [0, 1]) {
    expect(plan.data.slice(3 * i, 3 * i + 3).reduce((a, b) => a + b, 0)).toBeCloseTo(0.5, 12);
  }
  expect(() => sinkhorn(zeros(2, 2), { regularisation: 0 })).toThrow(TunesmithError);
  expect(() => sinkhorn(zeros(2, 2), { regularisation: 1, rowSums: [1] })).toThrow(TunesmithError);
  expect(() => sinkhorn(zeros(2, 2), { regularisation: 1, rowSums: [1, 0] })).toThrow(TunesmithError);
});

test("distances, neighbours and affinities", () => {
  const points = matrix([[0], [1], [3], [10]]);
  expect([...pairwiseDistances(points, matrix([[1]])).data]).toEqual([1, 0, 2, 9]);
  expect([...nearestNeighbours(points, 2)]).toEqual([1, 2, 0, 2, 1, 0, 2, 1]);
  expect([...knnAffinity(points, 1).data]).toEqual([0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]);
  const { a, k, w } = reference.rbf;
  expect(difference(rbfAffinity(matrix(a), k), matrix(w))).toBeLessThan(1e-12);
  expect([...rbfAffinity(matrix([[1], [1]]), 2).data]).toEqual([1, 1, 1, 1]);
  expect([
    ...linearAffinity(
      matrix([
        [1, 2],
        [3, 4],
      ]),
    ).data,
  ]).toEqual([5, 11, 11, 25]);
  expect(() => knnAffinity(points, 4)).toThrow(/from 1 to 3/);
  expect(() => rbfAffinity(points, 0)).toThrow(TunesmithError);
});

test("linear CKA", () => {
  const { x, y, value } = reference.cka;
  expect(linearCka(matrix(x), matrix(y))).toBeCloseTo(value, 12);
  const a = randomMatrix(20, 6);
  const rotated = gemm(a, qr(randomMatrix(6, 6, 2)).q);
  expect(linearCka(a, { ...rotated, data: rotated.data.map((v) => 3 * v - 7) })).toBeCloseTo(1, 12);
  expect(() => linearCka(a, zeros(20, 2))).toThrow(/same for all/);
  expect(() => linearCka(a, zeros(3, 2))).toThrow(TunesmithError);
});

test("silhouette by hand", () => {
  const scores = silhouette(matrix([[0], [1], [10], [13], [40]]), [7, 7, 2, 2, 5]);
  expect(scores[0]).toBeCloseTo((11.5 - 1) / 11.5, 12);
  expect(scores[2]).toBeCloseTo((9.5 - 3) / 9.5, 12);
  expect(scores[4]).toBe(0);
  expect(() => silhouette(zeros(2, 1), [1, 1])).toThrow(TunesmithError);
  expect(() => silhouette(zeros(2, 1), [1])).toThrow(TunesmithError);
});

test("bootstrap intervals cover the mean about as often as they claim", () => {
  let covered = 0;
  for (let trial = 0; trial < 100; trial++) {
    const { data } = randomMatrix(1, 40, 100 + trial);
    const { low, high, estimate } = bootstrapInterval(data, { confidence: 0.9, resamples: 300, seed: trial });
    expect(low).toBeLessThan(estimate);
    expect(high).toBeGreaterThan(estimate);
    if (low <= 0 && high >= 0) covered++;
  }
  expect(covered).toBeGreaterThan(78);
  expect(covered).toBeLessThan(98);
  const median = (x: Float64Array) => x.slice().sort()[x.length >> 1] as number;
  expect(bootstrapInterval([5, 1, 9], { statistic: median })).toEqual({ estimate: 5, low: 1, high: 9 });
  expect(() => bootstrapInterval([])).toThrow(TunesmithError);
  expect(() => bootstrapInterval([1], { confidence: 1 })).toThrow(TunesmithError);
});
