import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Pack, packExamples } from "../data/index.js";
import { type AdaptedLm, adapt, lora } from "../methods/index.js";
import { loadFolder } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { adamw, type TrainEvent, type TrainOptions, train } from "./index.js";

const FIXTURE = (name: string) => new URL(`../../fixtures/models/${name}`, import.meta.url).pathname;

/** Documents of a repeating pattern: learnable in a few steps. */
function packs(strategy: "ffd" | "none", count = 12): Pack[] {
  const examples = Array.from({ length: count }, (_, index) => {
    const length = 5 + (index % 4);
    const ids = Int32Array.from({ length }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(length).fill(1, 1) };
  });
  return packExamples(examples, { length: 16, strategy });
}

const model = (name = "gpt2", config: Parameters<typeof lora>[0] = {}) =>
  loadFolder(FIXTURE(name)).then((base) =>
    adapt(base, lora({ rank: 4, alpha: 8, targets: "all-linear", ...config })),
  );

const options = (extra: Partial<TrainOptions> = {}): TrainOptions => ({
  train: packs("none"),
  batchSize: 4,
  lengths: [16],
  steps: 6,
  padId: 0,
  optimizer: adamw({ lr: 1e-2 }),
  seed: 3,
  session: { threads: 1 },
  ...extra,
});

async function losses(lm: AdaptedLm, extra: Partial<TrainOptions> = {}): Promise<number[]> {
  const seen: number[] = [];
  await train(
    lm,
    options({ ...extra, onEvent: (event: TrainEvent) => event.type === "step" && seen.push(event.loss) }),
  );
  return seen;
}

const weights = (lm: AdaptedLm) =>
  [...lm.parameters.values()]
    .filter(({ trainable }) => trainable)
    .map(({ tensor }) => Array.from(tensor.data as Float32Array));

const closeTo = (a: readonly number[], b: readonly number[], tolerance: number) =>
  a.forEach((value, index) => {
    expect(Math.abs(value - (b[index] ?? Number.NaN))).toBeLessThan(tolerance);
  });

test("the loss falls, and only the adapter changes", async () => {
  const seen = await losses(await model(), { steps: 30 });
  expect(seen.at(-1)).toBeLessThan((seen[0] as number) * 0.7);
});

test("packed rows give the loss and the weights of unpacked ones", async () => {
  const [a, b] = [await model("llama"), await model("llama")];
  const all = { batchSize: 12, steps: 3 };
  const unpacked = await losses(a, { ...all, train: packs("none") });
  const packed = await losses(b, { ...all, train: packs("ffd") });
  closeTo(packed, unpacked, 1e-5);
  for (const [index, values] of weights(a).entries()) closeTo(values, weights(b)[index] as number[], 1e-4);
});

test("accumulated micro-batches equal one large batch, token for token", async () => {
  const [a, b] = [await model(), await model()];
  const whole = await losses(a, { batchSize: 12, steps: 3 });
  const parts = await losses(b, { batchSize: 2, accumulate: 6, steps: 3 });
  closeTo(parts, whole, 1e-5);
});

test("recomputation changes nothing", async () => {
  closeTo(await losses(await model("llama"), { recompute: true }), await losses(await model("llama")), 1e-6);
});

test("activations kept below the first adapter change nothing, and are used from epoch 2 on", async () => {
  const upper = { layers: [1], targets: ["c_attn"] };
  const plain = await losses(await model("gpt2", upper), { steps: 9 });
  const budgets = [
    { prefixCacheBytes: 1e8 },
    { prefixDiskBytes: 1e8 },
    // A row is 16 x 24 numbers: some are kept in memory, some on disk.
    { prefixCacheBytes: 8000, prefixDiskBytes: 1e8 },
  ];
  for (const budget of budgets)
    closeTo(await losses(await model("gpt2", upper), { steps: 9, ...budget }), plain, 1e-6);
});

test("dropout masks depend on the seed and step alone", async () => {
  const config = { dropout: 0.3 };
  const first = await losses(await model("gpt2", config));
  expect(await losses(await model("gpt2", config))).toEqual(first);
  expect(await losses(await model("gpt2", config), { seed: 4 })).not.toEqual(first);
  expect(await losses(await model("gpt2"))).not.toEqual(first);
});

test("a run continued from a checkpoint equals an uninterrupted one, bit for bit", async () => {
  const config = { dropout: 0.2 };
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-run-"));
  const straight = await model("gpt2", config);
  await losses(straight, { steps: 7 });
  await losses(await model("gpt2", config), { steps: 4, runDir, saveEvery: 2 });
  const resumed = await model("gpt2", config);
  // Whatever stands in the fresh adapter must be overwritten.
  for (const { tensor, trainable } of resumed.parameters.values()) {
    if (trainable) rng(9).fillNormal(tensor.data as Float32Array);
  }
  const rest = await losses(resumed, { steps: 7, runDir, saveEvery: 2, resume: true });
  expect(rest.length).toBe(3);
  expect(weights(resumed)).toEqual(weights(straight));
});

test("early stopping restores the best weights", async () => {
  const lm = await model();
  const evaluations: number[] = [];
  const result = await train(
    lm,
    options({
      steps: 40,
      optimizer: adamw({ lr: 0.3 }),
      validation: packs("none", 3),
      evalEvery: 1,
      patience: 2,
      onEvent: (event) => event.type === "evaluation" && evaluations.push(event.loss),
    }),
  );
  expect(result.restoredStep).toBe(evaluations.indexOf(Math.min(...evaluations)) + 1);
  expect(result.evaluation?.loss).toBeCloseTo(Math.min(...evaluations), 6);
});

test("a model without trainable parameters is refused", async () => {
  const base = await loadFolder(FIXTURE("gpt2"));
  await expect(train(base, options())).rejects.toMatchObject({ code: "zero-update" });
});
