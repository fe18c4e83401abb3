import { describe, expect, test } from "vitest";
import { input, makeGraph, ops, type Value } from "../graph/index.js";
import { inputsOf } from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { cayley, inverse } from "./algebra.js";
import { type Adaptation, boft, callMethod, frod, goft, osf, rotationTree, type SiteShape } from "./index.js";

const float = (name: string, ...shape: number[]): Value => input(name, "float32", shape);

/** Largest difference of two values over the largest number of the second, for normal inputs. */
async function apart(a: Value, b: Value, std = 0.5): Promise<number> {
  const inputs = inputsOf([a, b]);
  const feeds: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of inputs) {
    const size = (shape as number[]).reduce((x, y) => x * y, 1);
    const data =
      dtype === "int64"
        ? BigInt64Array.from({ length: size }, (_, at) => BigInt(at % 5))
        : rng(1, String(name)).fillNormal(new Float32Array(size), 0, std);
    feeds[String(name)] = tensor(dtype, shape as number[], data);
  }
  const graph = makeGraph("apart", inputs, [
    ["a", ops.add(a, 0)],
    ["b", ops.add(b, 0)],
  ]);
  const found = await evaluate(graph, feeds);
  const [x, y] = [found.a?.data as Float32Array, found.b?.data as Float32Array];
  const worst = x.reduce((most, value, at) => Math.max(most, Math.abs(value - (y[at] as number))), 0);
  return worst / y.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** The map by the method's forward, and with W + gate·(W' − W). */
function both({ method, config }: Adaptation, site: SiteShape, rows: number, gate: Value) {
  const specs = { ...method.shared?.([site], config), ...method.tensors(site, config) };
  const tensors = Object.fromEntries(
    Object.entries(specs).map(([key, { shape, dtype }]) => [key, input(key, dtype ?? "float32", shape)]),
  );
  const { inFeatures, outFeatures } = site;
  const [x, weight] = [float("x", rows, inFeatures), float("w", outFeatures, inFeatures)];
  const direct = callMethod(method, config, { site, tensors, x, weight, gate });
  const moved = ops.sub(method.weight(weight, tensors, site, config), weight);
  const changed = ops.add(weight, ops.mul(moved, gate));
  return [direct, ops.gemm(x, changed, undefined, { transB: true })] as const;
}

describe.each([
  ["FRoD", frod({ sparseRate: 0.1 })],
  ["OSF", osf()],
  ["OSF with few directions", osf({ keptRank: 0.9 })],
  ["BOFT", boft({ factors: 2 })],
  ["GOFT", goft()],
  ["qGOFT", goft({ quasi: true })],
] as const)("%s is the map with the changed weight", (_, adaptation) => {
  test.each([
    [24, 40, 3],
    [24, 40, 96],
    [40, 24, 3],
    [40, 24, 96],
  ])("%i outputs, %i inputs, %i rows", async (outFeatures, inFeatures, rows) => {
    const site: SiteShape = { path: "map", kind: "linear", inFeatures, outFeatures, hasBias: false };
    const [direct, through] = both(
      adaptation as unknown as Adaptation,
      site,
      rows,
      ops.abs(float("gate", 1)),
    );
    expect(await apart(direct, through)).toBeLessThan(1e-5);
  });
});

test.each([1, 2, 3, 7, 32, 33, 96, 160])(
  "a tree over %i coordinates is what its planes do one after the other",
  async (d) => {
    const { method, config } = goft({ quasi: true });
    const site: SiteShape = { path: "map", kind: "linear", inFeatures: d, outFeatures: 3, hasBias: false };
    const [weight, blocks] = [float("w", 3, d), float("blocks", d - 1, 4)];
    const columns = Array.from({ length: d }, (_, at) => ops.slice(weight, 1, at, at + 1));
    let plane = 0;
    for (const { i, j } of rotationTree(d)) {
      i.forEach((at, k) => {
        const [x, y] = [columns[at] as Value, columns[j[k] as number] as Value];
        const own = ops.slice(blocks, 0, plane, plane + 1);
        const entry = (place: number) => ops.slice(own, 1, place, place + 1);
        columns[at] = ops.add(ops.mul(x, entry(0)), ops.mul(y, entry(1)));
        columns[j[k] as number] = ops.add(ops.mul(x, entry(2)), ops.mul(y, entry(3)));
        plane++;
      });
    }
    const turned = method.weight(weight, { goft_blocks: blocks }, site, config);
    expect(await apart(turned, ops.concat(columns, 1))).toBeLessThan(1e-5);
  },
);

test.each([
  [2, 0.5],
  [3, 0.5],
  [4, 0.5],
  [4, 30],
])("Cayley's map of width %i in closed form, entries of about %f", async (n, std) => {
  const free = float("q", 5, n, n);
  const q = ops.mul(ops.sub(free, ops.transposeLast(free)), 0.5);
  const one = ops.trilu(ops.trilu(ops.full([n, n], 1, "float32"), true), false);
  const byNewton = ops.matmul(ops.sub(one, q), inverse(ops.add(one, q)));
  // The iteration itself rounds by the condition of I + Q.
  expect(await apart(cayley(q), byNewton, std)).toBeLessThan(std > 1 ? 1e-4 : 2e-6);
});
