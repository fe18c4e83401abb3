import { expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { input, makeGraph, ops, type Value } from "../../graph/index.js";
import { evaluate } from "../../runtime/index.js";
import { gemm, type Matrix64 } from "../../runtime/linalg/index.js";
import { rng } from "../../runtime/random/index.js";
import { tensor } from "../../tensor/index.js";
import {
  type AttentionHead,
  fastLoraAttentionGrad,
  featureCount,
  loraAttentionGrad,
  type Meter,
} from "./attention-gradient.js";

const random = (rows: number, cols: number, name: string, scale = 1): Matrix64 => ({
  rows,
  cols,
  data: Float64Array.from(rng(5, name).fillNormal(new Float32Array(rows * cols)), (value) => value * scale),
});

/** A head whose C1·W and C2 have entries of at most `most`. */
function headOf(length: number, d: number, rank: number, most: number): AttentionHead {
  const largest = ({ data }: Matrix64) => data.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const to = (m: Matrix64, factor: number): Matrix64 => ({
    ...m,
    data: m.data.map((value) => value * factor),
  });
  const base = random(d, d, "base");
  const [b, a] = [random(d, rank, "b", 0.5), random(rank, d, "a", 0.5)];
  const [c1, c2] = [random(length, d, "c1"), random(length, d, "c2")];
  const w = { ...base, data: base.data.map((value, at) => value + Number(gemm(b, a).data[at])) };
  return {
    ...{ base, a, b, c1: to(c1, most / largest(gemm(c1, w))), c2: to(c2, most / largest(c2)) },
    ...{ c3: random(length, d, "c3"), y: random(length, d, "y") },
  };
}

const KEYS = ["da", "db", "dw", "dc3"] as const;

/** Largest difference over the largest entry. */
const apart = (found: ArrayLike<number>, expected: ArrayLike<number>): number => {
  const all = Array.from(expected);
  const most = Math.max(...all.map(Math.abs));
  return Math.max(...all.map((value, at) => Math.abs(value - Number(found[at])))) / most;
};

test("the chain rule in matrix form is the engine's gradient", async () => {
  const head = headOf(20, 5, 2, 1.2);
  const names = ["c1", "c2", "c3", "y", "base", "b", "a"] as const;
  const value = Object.fromEntries(
    names.map((name) => [name, input(name, "float32", [head[name].rows, head[name].cols])]),
  ) as Record<(typeof names)[number], Value>;
  const w = ops.add(value.base, ops.matmul(value.b, value.a));
  const scores = ops.matmul(ops.matmul(value.c1, w), ops.transpose(value.c2, [1, 0]));
  const c = ops.sub(ops.matmul(ops.softmax(scores, -1), value.c3), value.y);
  const loss = ops.mul(ops.reduceSum(ops.square(c), undefined, false), 0.5);
  const wrt = [value.a, value.b, value.base, value.c3];
  const found = gradients(loss, wrt) as Value[];
  const outputs = [["loss", loss] as const, ...KEYS.map((key, at) => [key, found[at] as Value] as const)];
  const feeds = Object.fromEntries(
    names.map((name) => [
      name,
      tensor("float32", [head[name].rows, head[name].cols], Float32Array.from(head[name].data)),
    ]),
  );
  const engine = await evaluate(makeGraph("head", Object.values(value), outputs), feeds);
  const exact = loraAttentionGrad(head);
  expect(Math.abs(Number(engine.loss?.data[0]) / exact.loss - 1)).toBeLessThan(1e-6);
  for (const key of KEYS)
    expect(apart(exact[key].data, engine[key]?.data as Float32Array), key).toBeLessThan(1e-6);
});

const errorsOf = (head: AttentionHead, degree: number): number => {
  const [exact, fast] = [loraAttentionGrad(head), fastLoraAttentionGrad({ degree })(head)];
  const keys = ["da", "db", "dc3"] as const;
  return Math.max(...keys.map((key) => apart(fast[key].data, exact[key].data)));
};

test("the polynomial comes nearer with its degree where entries are small, and not where they are large", () => {
  const small = [2, 4, 6].map((degree) => errorsOf(headOf(60, 4, 2, 0.5), degree));
  expect(small).toEqual(small.toSorted((a, b) => b - a));
  expect(small[2]).toBeLessThan(1e-6);
  expect(errorsOf(headOf(60, 4, 2, 3), 4)).toBeGreaterThan(0.05);
});

test("scores of one feature: a high degree is exact", () => {
  expect(errorsOf(headOf(12, 1, 1, 1), 20)).toBeLessThan(1e-10);
  expect([featureCount(4, 4), featureCount(1, 20), featureCount(8, 2)]).toEqual([70, 21, 45]);
});

const metered = (run: (meter: Meter) => unknown): Meter => {
  const meter = { products: 0, largest: 0 };
  run(meter);
  return meter;
};

test("counted multiplications and arrays grow with L, those of the exact gradient with its square", () => {
  const counts = [64, 128, 256].map((length) => {
    const head = headOf(length, 4, 2, 1);
    return {
      exact: metered((meter) => loraAttentionGrad(head, meter)),
      fast: metered((meter) => fastLoraAttentionGrad({ degree: 4 })(head, meter)),
    };
  });
  for (const at of [1, 2]) {
    const [before, now] = [counts[at - 1], counts[at]];
    const slope = (of: (count: (typeof counts)[number]) => number) =>
      Math.log2(of(now as (typeof counts)[number]) / of(before as (typeof counts)[number]));
    expect(slope(({ exact }) => exact.products)).toBeGreaterThan(1.85);
    expect(slope(({ exact }) => exact.largest)).toBeCloseTo(2, 9);
    expect(slope(({ fast }) => fast.products)).toBeLessThan(1.05);
    expect(slope(({ fast }) => fast.largest)).toBeCloseTo(1, 9);
  }
  expect(counts[2]?.fast.largest).toBe(256 * featureCount(4, 4));
});

test("what cannot be is refused", () => {
  expect(() => fastLoraAttentionGrad({ degree: 0 })).toThrow(/degree/);
  expect(() => fastLoraAttentionGrad({ degree: 8 })(headOf(4, 24, 2, 1))).toThrow(/monomials/);
  expect(() => fastLoraAttentionGrad({ degree: 1 })(headOf(40, 4, 2, 4))).toThrow(/not positive/);
  expect(() => loraAttentionGrad({ ...headOf(4, 3, 2, 1), y: random(3, 3, "y") })).toThrow(/do not fit/);
});
