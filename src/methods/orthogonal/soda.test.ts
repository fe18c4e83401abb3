import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { rng } from "../../runtime/random/index.js";
import { adamw, type TrainOptions, train } from "../../training/index.js";
import { type AdaptedLm, adapt, evenFactors, merge, soda, stiefelState, stiefelStep } from "../index.js";
import { baseModel, probeLogits, product, randomise, relativeDifference } from "../testing/fixtures.js";

const fresh = async (options: Parameters<typeof soda>[0] = {}) =>
  adapt(await baseModel("llama"), soda({ targets: ["q_proj", "down_proj"], ...options }));

const ids = Int32Array.from({ length: 8 }, (_, at) => (at * 5) % 60);
const packs = packExamples([{ ids, lossMask: new Uint8Array(8).fill(1, 1) }], {
  length: 8,
  strategy: "none",
});

const run = (model: AdaptedLm, options: Partial<TrainOptions> = {}) =>
  train(model, {
    train: packs,
    batchSize: 1,
    lengths: [8],
    steps: 4,
    padId: 0,
    optimizer: adamw({ lr: 2e-2 }),
    session: { threads: 1 },
    ...options,
  });

const trained = (model: AdaptedLm) =>
  [...model.parameters.values()]
    .filter(({ trainable }) => trainable)
    .map(({ tensor }) => Array.from(tensor.data as Float32Array));

/** Largest entry of QᵀQ − I over all rotations, and of Q − I. */
function rotations(model: AdaptedLm): { gap: number; moved: number } {
  let [gap, moved] = [0, 0];
  for (const { name, tensor } of model.parameters.values()) {
    if (!name.includes("soda_Q")) continue;
    const n = tensor.shape[0] as number;
    const q = tensor.data as Float32Array;
    const turned = q.map((_, at) => q[(at % n) * n + Math.floor(at / n)] as number);
    product(turned, q, [n, n, n]).forEach((value, at) => {
      const one = at % (n + 1) === 0 ? 1 : 0;
      gap = Math.max(gap, Math.abs(value - one));
      moved = Math.max(moved, Math.abs((q[at] as number) - one));
    });
  }
  return { gap, moved };
}

test.each(["polar", "cayley"] as const)("trained, rotations stay orthogonal: %s", async (retraction) => {
  const model = await fresh({ retraction });
  await run(model, { steps: 20 });
  const { gap, moved } = rotations(model);
  expect(gap).toBeLessThan(1e-6);
  expect(moved).toBeGreaterThan(0.05);
});

test("a run continued from a checkpoint equals an uninterrupted one, bit for bit", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-soda-"));
  const straight = await fresh();
  await run(straight);
  await run(await fresh(), { steps: 2, runDir, saveEvery: 2 });
  const resumed = await fresh();
  await run(resumed, { runDir, saveEvery: 2, resume: true });
  expect(trained(resumed)).toEqual(trained(straight));
});

test("micro-batches add up to the gradient of an update", async () => {
  const four = packExamples(
    [0, 1, 2, 3].map((row) => ({
      ids: ids.map((id) => (id + row) % 60),
      lossMask: new Uint8Array(8).fill(1, 1),
    })),
    { length: 8, strategy: "none" },
  );
  const [whole, parts] = [await fresh(), await fresh()];
  await run(whole, { train: four, batchSize: 4, steps: 1 });
  await run(parts, { train: four, batchSize: 2, accumulate: 2, steps: 1 });
  const [a, b] = [trained(whole).flat(), trained(parts).flat()];
  expect(a.reduce((most, value, at) => Math.max(most, Math.abs(value - Number(b[at]))), 0)).toBeLessThan(
    1e-3,
  );
});

test("the LQ variant starts as the base and merges", async () => {
  const model = await fresh({ variant: "lq" });
  const plain = await probeLogits(model.base);
  expect(relativeDifference(await probeLogits(model), plain)).toBeLessThan(1e-6);
  randomise(model, 1, 0.05);
  const apart = await probeLogits(model);
  expect(relativeDifference(apart, plain)).toBeGreaterThan(1e-3);
  expect(relativeDifference(await probeLogits(await merge(model)), apart)).toBeLessThan(1e-4);
});

test("sizes of rotations", async () => {
  expect(evenFactors(640)).toEqual([8, 8, 10]);
  expect(evenFactors(13)).toEqual([1, 1, 13]);
  await expect(fresh({ kron: [2, 3, 5] })).rejects.toMatchObject({ code: "config-invalid" });
});

test("a gradient normal to the manifold moves nothing", () => {
  const n = 5;
  const random = rng(1, "stiefel");
  const x = Float64Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));
  const state = stiefelState(n);
  stiefelStep(x, random.fillNormal(new Float64Array(n * n)), state, { lr: 0.3 });
  // G = X·A with A symmetric.
  const half = random.fillNormal(new Float64Array(n * n));
  const a = half.map((value, at) => value + (half[(at % n) * n + Math.floor(at / n)] as number));
  const before = x.slice();
  stiefelStep(x, product(x, a, [n, n, n]), stiefelState(n), { lr: 0.3 });
  expect(x.reduce((most, value, at) => Math.max(most, Math.abs(value - Number(before[at]))), 0)).toBeLessThan(
    1e-9,
  );
});
