import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Pack, packExamples } from "../data/index.js";
import { type AdaptedLm, adapt, lora } from "../methods/index.js";
import { loadFolder } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { prefixGraphs } from "./graph.js";
import {
  adamw,
  evaluateOnce,
  loadCheckpoint,
  loadLatest,
  nextToken,
  type TrainEvent,
  type TrainOptions,
  train,
} from "./index.js";

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

describe.each([
  ["gpt2", "an adapted head with dropout", { targets: ["lm_head"], dropout: 0.3 }],
  ["gpt2", "a head trained whole", { modulesToSave: ["lm_head"] }],
  ["gpt2", "trained rows of a tied embedding", { trainableTokens: [3, 8, 13] }],
  ["llama", "an adapted head and embedding", { targets: ["lm_head", "embed_tokens"] }],
] satisfies [string, string, Parameters<typeof lora>[0]][])("%s with %s", (name, _, config) => {
  test("the loss does not depend on how many logits exist at one time", async () => {
    const adapted = () => model(name, config);
    const [a, b] = [await adapted(), await adapted()];
    closeTo(await losses(a, { chunkRows: 24 }), await losses(b, { chunkRows: 64 }), 1e-5);
    for (const [index, values] of weights(a).entries()) closeTo(values, weights(b)[index] as number[], 1e-3);
  });
});

test("recomputation starts from kept activations too", async () => {
  const upper = { layers: [1], targets: ["c_attn"] };
  const shape = { batch: 2, length: 8 };
  const objective = nextToken(await model("gpt2", upper), { batchSize: 2, lengths: [8], padId: 0 });
  const parts = prefixGraphs(objective, shape, { recompute: true });
  expect(parts?.block).toBe(1);
  expect(parts?.suffix.graph.inputs.map(({ name }) => name)).toContain("prefix");
  const plain = await losses(await model("gpt2", upper), { steps: 7 });
  const both = await losses(await model("gpt2", upper), { steps: 7, recompute: true, prefixCacheBytes: 1e8 });
  closeTo(both, plain, 1e-6);
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

test("a run is not continued on other data", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-run-"));
  await losses(await model(), { steps: 2, runDir, saveEvery: 2 });
  const other = packs("none").toReversed();
  await expect(
    losses(await model(), { steps: 4, runDir, saveEvery: 2, resume: true, train: other }),
  ).rejects.toMatchObject({ code: "checkpoint-mismatch", message: expect.stringContaining("dataHash") });
});

test("a checkpoint carries the metric of its own weights only", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-run-"));
  const validation = packs("none", 3);
  await losses(await model(), { steps: 4, runDir, saveEvery: 3, evalEvery: 2, validation });
  expect((await loadCheckpoint(runDir, 3)).state.metric).toBeUndefined();
  expect((await loadCheckpoint(runDir, 4)).state.metric).toBeGreaterThan(0);
});

test("held-out rows that cannot be evaluated are refused before the first step", async () => {
  const blind = packExamples([{ ids: Int32Array.of(3, 4, 5), lossMask: new Uint8Array(3) }], { length: 16 });
  const seen: TrainEvent[] = [];
  const onEvent = (event: TrainEvent) => seen.push(event);
  await expect(train(await model(), options({ validation: blind, onEvent }))).rejects.toMatchObject({
    code: "data-empty",
  });
  expect(seen).toEqual([]);
});

test("a run that cannot be compiled says why, once", async () => {
  const lm = await model();
  const broken = {
    ...lm,
    build: (inputs: Parameters<typeof lm.build>[0]) => ({ ...lm.build(inputs), boundaries: [] }),
  };
  await expect(train(broken, options({ recompute: true }))).rejects.toThrow(/recognisable blocks/);
});

test("a loss that is not finite stops the run and leaves its checkpoint", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-run-"));
  const lm = await model();
  const spoil = (event: TrainEvent) => {
    if (event.type !== "checkpoint") return;
    for (const { tensor, trainable } of lm.parameters.values())
      if (trainable) (tensor.data as Float32Array).fill(Number.NaN);
  };
  await expect(train(lm, options({ runDir, saveEvery: 2, onEvent: spoil }))).rejects.toMatchObject({
    code: "loss-not-finite",
  });
  const { checkpoint } = await loadLatest(runDir);
  expect(checkpoint?.state.step).toBe(2);
  for (const values of checkpoint?.params.values() ?? []) expect(values.every(Number.isFinite)).toBe(true);
});

test("a cancelled run is continued to the same weights", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-run-"));
  const straight = await model();
  await losses(straight, { steps: 5 });
  const controller = new AbortController();
  const stopAtThree = (event: TrainEvent) => event.type === "step" && event.step === 3 && controller.abort();
  const stopped = train(
    await model(),
    options({ steps: 5, runDir, saveEvery: 100, signal: controller.signal, onEvent: stopAtThree }),
  );
  await expect(stopped).rejects.toMatchObject({ code: "cancelled" });
  const resumed = await model();
  await losses(resumed, { steps: 5, runDir, resume: true });
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

test("a padding token without a row in the embedding fills rows all the same", async () => {
  expect(await losses(await model(), { padId: 80 })).toEqual(await losses(await model(), { padId: 0 }));
});

test("a token that the model does not know is named, in training and in evaluation", async () => {
  const [known] = packs("none", 1) as [Pack];
  const foreign = (id: number): Pack[] => [
    { ...known, examples: known.examples.map((example) => ({ ...example, ids: example.ids.with(1, id) })) },
  ];
  const named = {
    code: "data-invalid",
    message: expect.stringContaining("token 80; the model knows 0 to 79"),
  };
  await expect(train(await model(), options({ train: foreign(80) }))).rejects.toMatchObject(named);
  const evaluated = { batchSize: 1, lengths: [16], padId: 0 };
  await expect(evaluateOnce(await model(), foreign(80), evaluated)).rejects.toMatchObject(named);
  expect((await evaluateOnce(await model(), foreign(79), evaluated)).loss).toBeGreaterThan(0);
});

test("a model without trainable parameters is refused", async () => {
  const base = await loadFolder(FIXTURE("gpt2"));
  await expect(train(base, options())).rejects.toMatchObject({ code: "zero-update" });
});
