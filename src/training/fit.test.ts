import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { type AdaptedLm, adapt, lora } from "../methods/index.js";
import { loadFolder } from "../models/index.js";
import {
  adamw,
  createEvaluator,
  createOptimizer,
  ema,
  type FitOptions,
  fit,
  nextToken,
  optimizerNames,
  sam,
  sgd,
  type TrainEvent,
} from "./index.js";

const FIXTURE = new URL("../../fixtures/models/gpt2", import.meta.url).pathname;

const packs = packExamples(
  Array.from({ length: 8 }, (_, index) => {
    const ids = Int32Array.from({ length: 7 }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(7).fill(1, 1) };
  }),
  { length: 8, strategy: "none" },
);

const model = async () => adapt(await loadFolder(FIXTURE), lora({ rank: 2, alpha: 4, targets: ["c_attn"] }));
const objectiveOf = (lm: AdaptedLm) =>
  nextToken(lm, { train: packs, validation: packs.slice(0, 2), batchSize: 4, lengths: [8], padId: 0 });

async function run(lm: AdaptedLm, options: Partial<FitOptions>) {
  const events: TrainEvent[] = [];
  const result = await fit(objectiveOf(lm), {
    steps: 5,
    optimizer: adamw({ lr: 1e-2 }),
    session: { threads: 1 },
    onEvent: (event) => events.push(event),
    ...options,
  });
  return { events, result };
}

const weights = (lm: AdaptedLm) =>
  [...lm.parameters.values()].filter(({ trainable }) => trainable).map(({ tensor }) => [...tensor.data]);

const optimizers: [string, () => FitOptions["optimizer"]][] = [
  ...optimizerNames.map((name): [string, () => FitOptions["optimizer"]] => [
    name,
    () => createOptimizer(name),
  ]),
  ["adamw in 8 bits", () => createOptimizer("adamw", { lr: 1e-2, stateBits: 8 })],
  ["adamw with Lookahead", () => createOptimizer("adamw", { lr: 1e-2, lookaheadEvery: 2 })],
  ["adamw with SAM", () => createOptimizer("adamw", { lr: 1e-2, samRho: 0.05 })],
  ["adamw with a moving average", () => createOptimizer("adamw", { lr: 1e-2, emaDecay: 0.9 })],
  ["adamw with a mean of weights", () => createOptimizer("adamw", { lr: 1e-2, swaStart: 2 })],
];

describe.each(optimizers)("%s", (_, optimizer) => {
  test("a continued run equals an uninterrupted one, bit for bit", async () => {
    const runDir = mkdtempSync(join(tmpdir(), "tunesmith-fit-"));
    const [straight, cut, resumed] = [await model(), await model(), await model()];
    await run(straight, { optimizer: optimizer(), steps: 4 });
    await run(cut, { optimizer: optimizer(), steps: 2, saveEvery: 2, runDir });
    await run(resumed, { optimizer: optimizer(), steps: 4, saveEvery: 2, runDir, resume: true });
    expect(weights(resumed)).toEqual(weights(straight));
  });
});

test("SAM's update takes the gradient where it climbed to", async () => {
  const [plain, sharp] = [await model(), await model()];
  // Without distance both are the same; with some they differ.
  await run(plain, { optimizer: sgd({ lr: 0.1 }), steps: 3 });
  await run(sharp, { optimizer: sam(sgd({ lr: 0.1 }), { rho: 0 }), steps: 3 });
  expect(weights(sharp)).toEqual(weights(plain));
  const far = await model();
  await run(far, { optimizer: sam(sgd({ lr: 0.1 }), { rho: 0.1 }), steps: 3 });
  expect(weights(far)).not.toEqual(weights(plain));
});

test("the averaged weights are evaluated, and are the result", async () => {
  const lm = await model();
  const { result } = await run(lm, { optimizer: ema(adamw({ lr: 3e-2 }), { decay: 0.9 }) });
  const raw = await model();
  await run(raw, { optimizer: adamw({ lr: 3e-2 }) });
  expect(weights(lm)).not.toEqual(weights(raw));
  const objective = objectiveOf(lm);
  const evaluator = createEvaluator(objective, { session: { threads: 1 } });
  const again = await evaluator.run(objective.validation?.() ?? []);
  await evaluator.close();
  expect(again.loss).toBe(result.evaluation?.loss);
});

test("Fast Forward runs stages between updates, and is continued exactly", async () => {
  const phase = { interval: 2, burnIn: 2, validationBatches: 1, maxTrials: 5 };
  const straight = await model();
  const { events } = await run(straight, { fastForward: phase, steps: 6 });
  const stages = events.filter(({ type }) => type === "fastForward");
  expect(stages.map((stage) => "step" in stage && stage.step)).toEqual([2, 4, 6]);
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-fit-"));
  await run(await model(), { fastForward: phase, steps: 3, saveEvery: 3, runDir });
  const resumed = await model();
  await run(resumed, { fastForward: phase, steps: 6, saveEvery: 3, runDir, resume: true });
  expect(weights(resumed)).toEqual(weights(straight));
});

test("Fast Forward without validation data is refused", async () => {
  const lm = await model();
  const objective = nextToken(lm, { train: packs, batchSize: 4, lengths: [8], padId: 0 });
  const options = { steps: 1, optimizer: adamw({ lr: 1e-2 }), fastForward: {} };
  await expect(fit(objective, options)).rejects.toMatchObject({ code: "config-invalid" });
});

test("a run folder belongs to one run at a time, and is free again afterwards", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-fit-"));
  const first = run(await model(), { steps: 2, runDir });
  await expect(run(await model(), { steps: 2, runDir })).rejects.toMatchObject({ code: "in-use" });
  await first;
  await run(await model(), { steps: 1, runDir });
  expect(readdirSync(runDir)).toEqual(["metrics.jsonl"]);
});
