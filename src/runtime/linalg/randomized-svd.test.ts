import { InferenceSession, Tensor } from "onnxruntime-node";
import { expect, test } from "vitest";
import {
  columnDefect,
  difference,
  randomMatrix,
  rowDefect,
  withSingularValues,
} from "../../../test/matrices.js";
import { TunesmithError } from "../../errors/index.js";
import { gemm } from "./gemm.js";
import { type GemmSession, gemmOnRuntime } from "./gemm-ort.js";
import { type Matrix, matrix, scaleColumns, toFloat32, transpose, zeros } from "./matrix.js";
import { powerIteration } from "./power-iteration.js";
import { qr } from "./qr.js";
import { randomizedSvd } from "./randomized-svd.js";
import { svd } from "./svd.js";

async function createSession(model: Uint8Array): Promise<GemmSession> {
  const session = await InferenceSession.create(model);
  return {
    run: (feeds) =>
      session.run(
        Object.fromEntries(
          Object.entries(feeds).map(([name, { dtype, data, shape }]) => [
            name,
            new Tensor(dtype, data, shape),
          ]),
        ),
      ),
  };
}

const onRuntime = gemmOnRuntime(createSession);
const decaying = withSingularValues(
  120,
  90,
  Array.from({ length: 60 }, (_, i) => 2 ** -i),
  (a) => qr(a).q,
);

test.each([
  [1, 1, 1],
  [5, 3, 4],
  [17, 300, 9],
  [130, 7, 1030],
])("gemm of %ix%i by %i in all four transpositions, in thread and on the runtime", async (m, k, n) => {
  const a = randomMatrix(m, k);
  const b = randomMatrix(k, n, 1);
  const expected = zeros(m, n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) sum += (a.data[i * k + p] as number) * (b.data[p * n + j] as number);
      expected.data[i * n + j] = sum;
    }
  }
  for (const transposeA of [false, true]) {
    for (const transposeB of [false, true]) {
      const x = transposeA ? transpose(a) : a;
      const y = transposeB ? transpose(b) : b;
      const options = { transposeA, transposeB };
      expect(difference(gemm(x, y, options), expected)).toBeLessThan(1e-11);
      expect(difference(await onRuntime(x, y, options), expected)).toBeLessThan(1e-11);
      const single = await onRuntime(toFloat32(x), toFloat32(y), options);
      expect(single.data).toBeInstanceOf(Float32Array);
      expect(difference(single, expected)).toBeLessThan(1e-3);
    }
  }
});

test("gemm refuses bad shapes and handles empty ones", async () => {
  expect(gemm(zeros(2, 0), zeros(0, 3))).toEqual(zeros(2, 3));
  expect(await onRuntime(zeros(2, 0), zeros(0, 3), {})).toEqual(zeros(2, 3));
  expect(() => gemm(zeros(2, 3), zeros(2, 3))).toThrow(TunesmithError);
  await expect(onRuntime(zeros(2, 3), zeros(2, 3), {})).rejects.toThrow(TunesmithError);
  const broken = gemmOnRuntime(async () => ({ run: async () => ({}) }));
  await expect(broken(zeros(1, 1), zeros(1, 1), {})).rejects.toThrow(/did not return/);
});

test("leading triples equal those of the exact decomposition", async () => {
  const exact = svd(decaying);
  for (const a of [decaying, transpose(decaying)]) {
    const { u, s, vt } = await randomizedSvd(a, { rank: 10 });
    expect([u.rows, u.cols, vt.rows, vt.cols]).toEqual([a.rows, 10, 10, a.cols]);
    expect(columnDefect(u)).toBeLessThan(1e-10);
    expect(rowDefect(vt)).toBeLessThan(1e-10);
    s.forEach((value, i) => {
      expect(Math.abs(value - (exact.s[i] as number))).toBeLessThan(1e-10);
    });
    const best = Math.sqrt(exact.s.slice(10).reduce((sum, value) => sum + value * value, 0));
    const error = gemm(scaleColumns(u, s), vt).data.map((value, p) => value - (a.data[p] as number));
    expect(Math.hypot(...error)).toBeLessThan(best * 1.000001);
  }
});

test("same seed same result; the runtime's products agree; full rank is exact", async () => {
  const options = { rank: 5, seed: 3 };
  expect(await randomizedSvd(decaying, options)).toEqual(await randomizedSvd(decaying, options));
  const single: Matrix = toFloat32(decaying);
  const here = await randomizedSvd(single, options);
  const there = await randomizedSvd(single, { ...options, gemm: onRuntime });
  expect(difference(there.u, here.u)).toBeLessThan(1e-4);
  expect(difference(matrix([[...there.s]]), matrix([[...here.s]]))).toBeLessThan(1e-6);
  const small = randomMatrix(7, 4);
  expect(
    difference(matrix([[...(await randomizedSvd(small, { rank: 4 })).s]]), matrix([[...svd(small).s]])),
  ).toBeLessThan(1e-12);
});

test("refusals", async () => {
  await expect(randomizedSvd(decaying, { rank: 0 })).rejects.toThrow(/rank is 0/);
  await expect(randomizedSvd(decaying, { rank: 91 })).rejects.toThrow(TunesmithError);
  await expect(randomizedSvd(matrix([[Number.NaN]]), { rank: 1 })).rejects.toThrow(TunesmithError);
});

test("power iteration finds the first triple", () => {
  const exact = svd(decaying);
  const { sigma, u, v } = powerIteration(decaying);
  expect(Math.abs(sigma - (exact.s[0] as number))).toBeLessThan(1e-11);
  u.forEach((value, i) => {
    expect(Math.abs(value - (exact.u.data[i * exact.u.cols] as number))).toBeLessThan(1e-5);
  });
  v.forEach((value, i) => {
    expect(Math.abs(value - (exact.vt.data[i] as number))).toBeLessThan(1e-5);
  });
  expect(powerIteration(zeros(3, 2)).sigma).toBe(0);
  expect(() => powerIteration(randomMatrix(30, 30), { maxIterations: 2 })).toThrow(/no convergence/);
});
