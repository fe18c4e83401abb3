import { createHash } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { adapt, lora, unfreeze } from "../methods/index.js";
import { type CausalLm, initModel, loadFolder, loadModel, type Model } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { cadence } from "./cadence.js";
import { updatesInGraph } from "./graph-update.js";
import {
  adafactor,
  adamw,
  clipByGlobalNorm,
  clipped,
  type FitOptions,
  findLearningRate,
  fit,
  generationScores,
  type LearningRateRange,
  lion,
  lossSpikes,
  muon,
  nextToken,
  type Objective,
  type Optimizer,
  readMetrics,
  sgd,
  type TrainEvent,
} from "./index.js";
import { noiseScale } from "./noise-scale.js";

const FIXTURE = (name: string) => new URL(`../../fixtures/models/${name}`, import.meta.url).pathname;

const packs = packExamples(
  Array.from({ length: 12 }, (_, index) => {
    const ids = Int32Array.from({ length: 7 }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(7).fill(1, 1) };
  }),
  { length: 8, strategy: "none" },
);
const plan = { batchSize: 4, lengths: [8], padId: 0 };
const adapted = async (name = "gpt2", config: Parameters<typeof lora>[0] = {}) =>
  adapt(await loadFolder(FIXTURE(name)), lora({ rank: 2, alpha: 4, targets: ["c_attn"], ...config }));
const objectiveOf = (model: CausalLm, train = packs) =>
  nextToken(model, { train, validation: packs.slice(0, 4), ...plan });

async function run(
  model: CausalLm,
  options: Partial<FitOptions> = {},
  objective: Objective = objectiveOf(model),
) {
  const events: TrainEvent[] = [];
  const result = await fit(objective, {
    steps: 6,
    optimizer: adamw({ lr: 1e-2 }),
    session: { threads: 1, worker: false },
    onEvent: (event) => events.push(event),
    ...options,
  });
  const steps = events.flatMap((event) => (event.type === "step" ? [event] : []));
  return { result, events, steps, losses: steps.map(({ loss }) => loss) };
}

const weights = (model: Model) =>
  [...model.parameters.values()]
    .filter(({ trainable }) => trainable)
    .flatMap(({ tensor }) => [...(tensor.data as Float32Array)]);

function hashOf(model: Model): string {
  const hash = createHash("sha256");
  for (const { tensor } of model.parameters.values()) hash.update(tensor.data as Float32Array);
  return hash.digest("hex");
}

test("the same seed gives the same weights, in a worker too", async () => {
  const hashes: string[] = [];
  for (const worker of [false, false, true]) {
    const model = await adapted("gpt2", { dropout: 0.1 });
    await run(model, { seed: 5, accumulate: 2, session: { threads: 1, worker } });
    hashes.push(hashOf(model));
  }
  expect(new Set(hashes).size).toBe(1);
  const other = await adapted("gpt2", { dropout: 0.1 });
  await run(other, { seed: 6, accumulate: 2 });
  expect(hashOf(other)).not.toBe(hashes[0]);
});

const optimizers: [string, () => Optimizer][] = [
  ["sgd", () => sgd({ lr: 0.1, momentum: 0.9 })],
  ["adamw", () => adamw({ lr: 1e-2, maxGradNorm: 0.5 })],
  ["lion", () => lion({ lr: 1e-3 })],
  ["adafactor", () => adafactor({ lr: 1e-2, relativeStep: false })],
  ["muon", () => muon({ lr: 1e-2 })],
  ["muon behind clipping", () => clipped(muon({ lr: 1e-2 }), [clipByGlobalNorm(0.5)])],
];
describe.each(optimizers)("full fine-tuning with %s", (name, optimizer) => {
  test("updates in the graph give the numbers of the loop, and are continued exactly", async () => {
    const model = async () => unfreeze(await loadFolder(FIXTURE("llama")));
    const [loop, graph, resumed] = [await model(), await model(), await model()];
    const a = await run(loop, { optimizer: optimizer(), updateIn: "loop" });
    const b = await run(graph, { optimizer: optimizer(), updateIn: "graph" });
    // Signs of numbers that are nearly zero make lion's steps differ by whole ones.
    const tolerance = name === "lion" ? 2e-2 : 1e-3;
    for (const [at, loss] of b.losses.entries())
      expect(Math.abs(loss - Number(a.losses[at]))).toBeLessThan(tolerance);
    expect(weights(graph)).not.toEqual(weights(await model()));
    const runDir = mkdtempSync(join(tmpdir(), "tunesmith-loop-"));
    const options = { updateIn: "graph", saveEvery: 3, runDir } as const;
    await run(await model(), { ...options, optimizer: optimizer(), steps: 3 });
    await run(resumed, { ...options, optimizer: optimizer(), resume: true });
    expect(weights(resumed)).toEqual(weights(graph));
  });
});

test("updates run as a graph where that is faster", () => {
  const small = new Map([["w", [64, 8]]]);
  const large = new Map([["w", [4000, 3000]]]);
  const faster = (optimizer: Optimizer, shapes: Map<string, number[]>) => updatesInGraph(optimizer, shapes);
  expect(
    [muon({ lr: 1 }), lion({ lr: 1 }), adafactor(), adamw({ lr: 1 })].map((each) => faster(each, small)),
  ).toEqual([...[false, false, false, false]]);
  expect(
    [muon({ lr: 1 }), lion({ lr: 1 }), adafactor(), adamw({ lr: 1 })].map((each) => faster(each, large)),
  ).toEqual([...[true, true, true, false]]);
  expect(faster(muon({ lr: 1 }), new Map([["w", [512, 512]]]))).toBe(true);
});

test("an optimiser without graph is refused one", async () => {
  const refused = run(await adapted(), { optimizer: adamw({ lr: 1, amsgrad: true }), updateIn: "graph" });
  await expect(refused).rejects.toMatchObject({ code: "config-invalid" });
});

test("updates whose loss jumps are left out, or end the run; a continued run knows the losses", async () => {
  const guard = lossSpikes({ factor: 2 });
  for (let step = 1; step <= 10; step++) expect(guard.isSpike(step, 3)).toBe(false);
  expect([guard.isSpike(11, 5.9), guard.isSpike(12, 6.2), guard.isSpike(13, 3)]).toEqual([
    false,
    true,
    false,
  ]);
  const other = lossSpikes({ factor: 2, action: "stop" });
  expect(other.isSpike(1, 100)).toBe(false);
  other.restore(guard.state());
  expect(() => other.isSpike(14, 7)).toThrow(expect.objectContaining({ code: "loss-spike" }));
  expect(() => lossSpikes({ factor: 1 })).toThrow(expect.objectContaining({ code: "config-invalid" }));
});

test("a skipped update changes nothing", async () => {
  const model = await adapted();
  const plain = objectiveOf(model);
  let batch = 0;
  /** The twelfth batch counts its loss a hundredfold. */
  const objective: Objective = {
    ...plain,
    async *batches(from, seed) {
      for (const each of { [Symbol.iterator]: () => plain.batches(from, seed) as Iterator<never> }) {
        const { feeds } = each as { feeds: Record<string, { data: Float32Array }> };
        if (++batch === 12) feeds.weights?.data.set(feeds.weights.data.map((value) => 100 * value));
        yield each;
      }
    },
  };
  let [before, after] = ["", ""];
  const { steps } = await run(
    model,
    {
      ...{ steps: 13, lossSpike: {}, optimizer: sgd({ lr: 1e-2 }) },
      onEvent(event) {
        if (event.type === "step" && event.step === 11) before = hashOf(model);
        if (event.type === "step" && event.step === 12) after = hashOf(model);
      },
    },
    objective,
  );
  expect(steps).toEqual([]);
  expect(after).toBe(before);
  expect(hashOf(model)).not.toBe(after);
});

test("the noise scale of known gradients", () => {
  // Gradients of single items: mean (2, 0), covariance 3 in each of two directions; so the scale is 6 / 4.
  const meter = noiseScale();
  const random = rng(7, "gradients");
  const normal = () => random.normal();
  const [count, parts] = [4, 8];
  const total = count * parts;
  const found: number[] = [];
  for (let update = 0; update < 4000; update++) {
    const sum = [0, 0];
    for (let micro = 0; micro < parts; micro++) {
      const part = [0, 0];
      for (let item = 0; item < count; item++) {
        part[0] = Number(part[0]) + (2 + Math.sqrt(3) * normal()) / total;
        part[1] = Number(part[1]) + (Math.sqrt(3) * normal()) / total;
      }
      meter.micro(new Map([["w", Float32Array.from(part)]]), count, total);
      for (const at of [0, 1]) sum[at] = Number(sum[at]) + Number(part[at]);
    }
    meter.update(Math.hypot(...sum), total);
    if (update > 100) found.push(Number(meter.value()));
  }
  const mean = found.reduce((a, b) => a + b, 0) / found.length;
  expect(Math.abs(mean / 1.5 - 1)).toBeLessThan(0.1);
  const again = noiseScale();
  again.restore(meter.state());
  expect(again.value()).toBe(meter.value());
});

test("accumulated batches report their noise scale in the metrics", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-loop-"));
  const { steps } = await run(await adapted(), { accumulate: 3, runDir });
  expect(steps.some(({ noiseScale: scale }) => scale !== undefined && scale > 0)).toBe(true);
  const { records } = await readMetrics(join(runDir, "metrics.jsonl"));
  expect(records.some((record) => "noiseScale" in record)).toBe(true);
});

test("early stopping goes by any score in either direction, and brings the best back", async () => {
  const model = await adapted();
  const seen: { step: number; hash: string }[] = [];
  // Rises until step 3, then falls, while the loss keeps falling.
  const evaluators = [
    async ({ step }: { step: number }) => {
      seen.push({ step, hash: hashOf(model) });
      return { quality: 3 - Math.abs(3 - step) };
    },
  ];
  const stopOn = { metric: "quality", mode: "max" } as const;
  const { result } = await run(model, { steps: 20, evalEvery: 1, patience: 2, evaluators, stopOn });
  expect(result).toMatchObject({ steps: 5, restoredStep: 3 });
  expect(hashOf(model)).toBe(seen.find(({ step }) => step === 3)?.hash);
  const wrong = run(await adapted(), { evalEvery: 1, patience: 2, stopOn: { metric: "accuracy" } });
  await expect(wrong).rejects.toMatchObject({
    code: "config-invalid",
    fix: expect.stringContaining("perplexity"),
  });
});

test("patience that could never stop a run is refused", async () => {
  const objective = nextToken(await adapted(), { train: packs, ...plan });
  const tune = (options: Partial<FitOptions>) =>
    fit(objective, { steps: 2, optimizer: adamw({ lr: 1e-2 }), ...options });
  const evaluators = [async () => ({ quality: 1 })];
  const cases: [Partial<FitOptions>, RegExp][] = [
    [{ patience: 2, evalEvery: 1 }, /nothing to evaluate/],
    [{ patience: 2, evalEvery: 1, evaluators }, /no loss to go by/],
    [{ patience: 2, evaluators, stopOn: { metric: "quality" } }, /only the last/],
    [{ patience: 0, evalEvery: 1, evaluators, stopOn: { metric: "quality" } }, /patience 0/],
  ];
  for (const [options, message] of cases) await expect(tune(options)).rejects.toThrow(message);
});

test("generated text is scored during training", async () => {
  const base = await loadModel("assets/default-model");
  const model = (await adapt(base, lora({ rank: 2 }))) as CausalLm;
  const asked = { examples: [{ prompt: "a", expected: ["no such text", "b"] }], maxTokens: 3 };
  const scorer = generationScores(model, { ...asked, scores: ["exact_match"], session: { threads: 1 } });
  const { events } = await run(model, { evaluators: [scorer], steps: 2 });
  const evaluation = events.find(({ type }) => type === "evaluation");
  expect(evaluation).toMatchObject({ scores: { exact_match: 0, perplexity: expect.any(Number) } });
  expect(() => generationScores(model, { ...asked, scores: ["mae"] })).toThrow(
    expect.objectContaining({ code: "config-invalid" }),
  );
});

test("a run is not continued on another base", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-loop-"));
  const config = { model_type: "gpt2", vocab_size: 72, n_embd: 32, n_layer: 2, n_head: 2, n_positions: 64 };
  const model = (seed: number) => adapt(initModel(config, { seed }), lora({ rank: 2, targets: ["c_attn"] }));
  await run(await model(1), { runDir, steps: 2, saveEvery: 1 });
  await run(await model(1), { runDir, steps: 3, saveEvery: 1, resume: true });
  const other = run(await model(2), { runDir, steps: 4, saveEvery: 1, resume: true });
  await expect(other).rejects.toMatchObject({ code: "checkpoint-mismatch", details: { keys: ["base"] } });
});

test("checkpoints by the clock take at most 2 % of the time", () => {
  let now = 0;
  const clock = cadence("auto", () => now);
  let [spent, saves] = [0, 0];
  for (let step = 1; step <= 20_000; step++) {
    now += 100;
    if (!clock.isDue(step)) continue;
    now += 1500;
    spent += 1500;
    saves++;
    clock.saved(1500);
  }
  expect(saves).toBeGreaterThan(10);
  expect(spent / now).toBeLessThan(0.02 + 1500 / now);
  expect([1, 2, 3, 4].filter((step) => cadence(2).isDue(step))).toEqual([2, 4]);
  expect(cadence(0).isDue(4)).toBe(false);
});

test("rows of tokens that the data do not hold do not end a run, unmarked ones do", async () => {
  const model = await adapted("llama", { targets: ["q_proj"], trainableTokens: [61, 62] });
  const names = [...model.parameters.values()].filter(({ rare }) => rare).map(({ name }) => name);
  expect(names.length).toBeGreaterThan(0);
  await run(model, { steps: 15 });
  expect(hashOf(model)).not.toBe(
    hashOf(await adapted("llama", { targets: ["q_proj"], trainableTokens: [61, 62] })),
  );
  const unmarked = await adapted("llama", { targets: ["q_proj"], trainableTokens: [61, 62] });
  const parameters = new Map(
    [...unmarked.parameters].map(([name, each]) => [name, { ...each, rare: false }]),
  );
  await expect(run({ ...unmarked, parameters }, { steps: 15 })).rejects.toMatchObject({
    code: "zero-update",
  });
});

test("recomputing some blocks changes no number; 'auto' takes as few as fit", async () => {
  const model = () => adapted("llama", { targets: "all-linear" });
  const { losses } = await run(await model());
  for (const recompute of [1, 2, true])
    expect((await run(await model(), { recompute })).losses.map((loss) => loss.toFixed(4))).toEqual(
      losses.map((loss) => loss.toFixed(4)),
    );
  const shape = { batch: 4, length: 8 };
  const small = run(await model(), { recompute: "auto", memory: { budget: 2 ** 20, shape } });
  await expect(small).rejects.toMatchObject({
    code: "out-of-memory",
    details: { plan: { total: expect.any(Number) }, budget: 2 ** 20 },
  });
  await run(await model(), { recompute: "auto", memory: { budget: 2 ** 40, shape } });
  await expect(run(await model(), { recompute: "auto" })).rejects.toMatchObject({ code: "config-invalid" });
});

test("arrays that cannot be made become out-of-memory with the plan", async () => {
  const optimizer: Optimizer = {
    ...sgd({ lr: 1 }),
    step() {
      throw new RangeError("Array buffer allocation failed");
    },
  };
  await expect(run(await adapted(), { optimizer })).rejects.toMatchObject({
    code: "out-of-memory",
    message: expect.stringMatching(/needs about \d+ MB/),
    fix: expect.stringMatching(/batchSize.*recompute/),
    details: { plan: { activations: expect.any(Number) }, shape: { batch: 4, length: 8 } },
  });
});

test("the learning rate finder leaves the weights alone and finds where the loss falls", async () => {
  const model = await unfreeze(await loadFolder(FIXTURE("llama")));
  const before = hashOf(model);
  const range: LearningRateRange = await findLearningRate(objectiveOf(model), {
    optimizer: (lr, schedule) => adamw({ lr, schedule, weightDecay: 0 }),
    steps: 60,
    lowest: 1e-6,
    highest: 10,
    session: { threads: 1 },
  });
  expect(hashOf(model)).toBe(before);
  expect(range.suggestion).toBeGreaterThan(1e-5);
  expect(range.suggestion).toBeLessThan(1);
  expect(range.largest).toBeGreaterThanOrEqual(Number(range.suggestion));
  const rates = range.points.map(({ learningRate }) => learningRate);
  expect(rates[0]).toBeCloseTo(1e-6, 9);
  expect(rates.toSorted((a, b) => a - b)).toEqual(rates);
});

test("full fine-tuning of the shipped model, updated in the graph without being told to", {
  timeout: 60_000,
}, async () => {
  const base = (await loadModel("assets/default-model")) as CausalLm;
  const ids = (row: number) => Int32Array.from({ length: 32 }, (_, at) => 40 + ((row * 7 + at * 3) % 200));
  const rows = Array.from({ length: 8 }, (_, row) => ({
    ids: ids(row),
    lossMask: new Uint8Array(32).fill(1, 1),
  }));
  const train = packExamples(rows, { length: 32, strategy: "none" });
  const tune = async (updateIn: "auto" | "loop", steps: number) => {
    const model = await unfreeze(base);
    const objective = nextToken(model, { train, batchSize: 4, lengths: [32], padId: 0 });
    const optimizer = muon({ lr: 5e-3, maxGradNorm: 1 });
    const shapes = new Map([...model.unfrozen.values()].map(({ name, tensor }) => [name, tensor.shape]));
    expect(updatesInGraph(optimizer, shapes)).toBe(true);
    const { losses } = await run(model, { optimizer, updateIn, steps }, objective);
    return { losses, values: weights(model) };
  };
  const { losses } = await tune("auto", 3);
  expect(losses[2]).toBeLessThan(Number(losses[0]));
  // The loop takes seconds for a step of these matrices.
  const [graph, loop] = [await tune("auto", 1), await tune("loop", 1)];
  const apart = graph.values.map((value, at) => Math.abs(value - Number(loop.values[at])));
  expect(apart.reduce((most, value) => Math.max(most, value), 0)).toBeLessThan(1e-4);
});
