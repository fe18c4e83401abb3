import { expect, test } from "vitest";
import { constant, makeGraph, ops, type Value } from "../graph/index.js";
import { evaluate, rng } from "../runtime/index.js";
import { tensor } from "../tensor/index.js";
import { smoothLoad, squaredVariation, topRoutes, weightsOf } from "./routing.js";

const value = (shape: readonly number[], data: readonly number[]) =>
  constant(tensor("float32", shape, Float32Array.from(data)));
const run = async (y: Value) =>
  Array.from((await evaluate(makeGraph("y", [], [["y", ops.add(y, 0)]]), {})).y?.data as Float32Array);

test("the largest are taken, of equal ones the first, and nothing else counts", async () => {
  const routes = topRoutes(value([2, 1, 4], [0.1, 0.4, 0.3, 0.2, 1, 1, 1, 0]), 2, (taken) =>
    ops.mul(taken, 2),
  );
  const weights = await run(weightsOf(routes));
  expect(weights.map((weight) => Number(weight.toFixed(6)))).toEqual([0, 0.8, 0.6, 0, 2, 2, 0, 0]);
});

test("the squared variation is the sample's variance over the squared mean", async () => {
  // Mean 3, variance (4 + 1 + 9 + 0) / 3.
  expect((await run(squaredVariation(value([4], [1, 2, 6, 3]))))[0]).toBeCloseTo(14 / 3 / 9, 5);
});

test("the smooth load is how often an expert stays among the k when its noise is drawn again", async () => {
  const clean = [0.2, -0.1, 0.5, 0.1];
  const spread = [0.3, 0.5, 0.2, 0.4];
  const noisy = [0.45, -0.6, 0.3, 0.35];
  const k = 2;
  const shape = [1, 1, 4];
  const found = await run(smoothLoad(value(shape, clean), value(shape, noisy), value(shape, spread), k));
  const draws = 20_000;
  const noise = rng(3, "load").fillNormal(new Float32Array(4 * draws));
  for (const [own, probability] of found.entries()) {
    const others = noisy.filter((_, at) => at !== own).toSorted((a, b) => b - a);
    let stays = 0;
    for (let at = 0; at < draws; at++)
      if (Number(clean[own]) + Number(noise[own * draws + at]) * Number(spread[own]) > Number(others[k - 1]))
        stays++;
    // Five standard errors.
    expect(Math.abs(stays / draws - probability)).toBeLessThan(5 * 0.5 * Math.sqrt(1 / draws));
  }
});
