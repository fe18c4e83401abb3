import { expect, test } from "vitest";
import { input, makeGraph, ops } from "../../graph/index.js";
import { inputsOf } from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import { callMethod, kroneckerSizes, loha, lokr } from "../index.js";
import type { Adaptation, SiteConfig, SiteShape } from "../method.js";
import { largestGap, product } from "../testing/fixtures.js";

const site: SiteShape = { path: "map", kind: "linear", inFeatures: 6, outFeatures: 4, hasBias: false };
const numbers = (count: number, from = 1) =>
  Float32Array.from({ length: count }, (_, at) => Math.sin(at + from));

/** Update of one row of inputs in a training pass, with given random numbers. */
async function updateOf({ method, config }: Adaptation, random: Readonly<Record<string, readonly number[]>>) {
  const specs = Object.entries(method.tensors(site, config as SiteConfig));
  const values = specs.map(([key, { shape }]) => [key, input(key, "float32", shape)] as const);
  const x = input("x", "float32", [1, 6]);
  const weight = ops.mul(input("w", "float32", [4, 6]), 0);
  const map = { site, tensors: Object.fromEntries(values), x, weight, training: true };
  const y = callMethod(method, config as SiteConfig, map);
  const graph = makeGraph("update", inputsOf([y]), [["y", y]]);
  const feeds = [
    ...specs.map(
      ([key, { shape }], at) =>
        [
          key,
          tensor(
            "float32",
            shape,
            numbers(
              shape.reduce((a, b) => a * b, 1),
              at,
            ),
          ),
        ] as const,
    ),
    ["x", tensor("float32", [1, 6], numbers(6, 9))] as const,
    ["w", tensor("float32", [4, 6], numbers(24))] as const,
    ...Object.entries(random).map(
      ([key, all]) => [`noise/map/${key}`, tensor("float32", all.length === 1 ? [] : [4], all)] as const,
    ),
  ].filter(([key]) => graph.inputs.some(({ name }) => name === key));
  return (await evaluate(graph, Object.fromEntries(feeds))).y?.data as Float32Array;
}

test("dropout leaves out outputs, which LoHa rescales and LoKr only when told, and whole updates", async () => {
  const rows = { rank: [0.1, 0.9, 0.4, 0.8] };
  const masked = (whole: Float32Array, factor: number) =>
    whole.map((value, at) => (at % 2 === 0 ? 0 : value * factor));
  for (const [make, own, factor] of [
    [loha, {}, 2],
    [lokr, {}, 1],
    [lokr, { rankDropoutScale: true }, 2],
  ] as const) {
    const whole = await updateOf(make({ rank: 1 }) as Adaptation, {});
    expect(Math.max(...whole.map(Math.abs))).toBeGreaterThan(0.01);
    const dropped = await updateOf(make({ rank: 1, rankDropout: 0.5, ...own }) as Adaptation, rows);
    expect(largestGap(dropped, masked(whole, factor))).toBeLessThan(1e-5);
    const off = { rank: 1, moduleDropout: 0.3 };
    expect([...(await updateOf(make(off) as Adaptation, { module: [0.2] }))]).toEqual([0, 0, 0, 0]);
    expect(largestGap(await updateOf(make(off) as Adaptation, { module: [0.4] }), whole)).toBeLessThan(1e-5);
  }
});

test("LoKr's update is the Kronecker product of its factors", async () => {
  const own = lokr({ rank: 8, alpha: 16 });
  const [w1, w2] = [numbers(2 * 2, 0), numbers(2 * 3, 1)];
  const dense = Float32Array.from({ length: 24 }, (_, at) => {
    const [i, j] = [Math.floor(at / 6), at % 6];
    const left = w1[Math.floor(i / 2) * 2 + Math.floor(j / 3)] as number;
    return 2 * left * (w2[(i % 2) * 3 + (j % 3)] as number);
  });
  expect(
    largestGap(await updateOf(own as Adaptation, {}), product(dense, numbers(6, 9), [4, 6, 1])),
  ).toBeLessThan(1e-5);
});

test("sizes of Kronecker factors are PEFT's", () => {
  // factorization() of peft/tuners/lokr/layer.py.
  const cases = [
    [256, -1, 16, 16],
    [128, -1, 8, 16],
    [127, -1, 1, 127],
    [128, 4, 4, 32],
    [360, 7, 6, 60],
    [12, 6, 6, 2],
    [6, 6, 6, 1],
    [1, -1, 1, 1],
  ] as const;
  for (const [size, factor, ...expected] of cases) expect(kroneckerSizes(size, factor)).toEqual(expected);
});
