import { createHash } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import { applyMethod, methodNamed, methodNames } from "../methods/index.js";
import { type CausalLm, loadFolder, type Model } from "../models/index.js";
import { adamw, type FitOptions, fit, nextToken } from "./index.js";

const fixture = (name: string) => new URL(`../../fixtures/models/${name}`, import.meta.url).pathname;
const FIXTURE = fixture("llama");
const expert = (name: string) => new URL(`../../fixtures/peft/${name}`, import.meta.url).pathname;
const packs = packExamples(
  Array.from({ length: 8 }, (_, index) => {
    const ids = Int32Array.from({ length: 7 }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(7).fill(1, 1) };
  }),
  { length: 8, strategy: "none" },
);

/** Settings that fit so small a model, where a method has them. */
const SMALL = {
  rank: 4,
  blockSize: 4,
  groupSize: 4,
  vectorLength: 4,
  frequencies: 20,
  summands: 4,
  conceptId: "a",
};
/** Settings with which something happens between steps within so few of them. */
const EARLY: Readonly<Record<string, object>> = {
  rosa: { maskAfter: 1 },
  uora: { every: 2, until: 1 },
  selekt: { every: 2 },
  xlora: { experts: [expert("llama-plain"), expert("llama-all-linear")] },
  alora: { invocation: [13] },
  "lq-lora": { bits: 3, blockSize: 16, maxIters: 3 },
  "lt-sft": { tuned: FIXTURE, proportion: 0.5 },
};

function optionsOf(method: string): Record<string, unknown> {
  const own = Object.keys(methodNamed(method).options.shape);
  return {
    ...Object.fromEntries(Object.entries(SMALL).filter(([key]) => own.includes(key))),
    ...EARLY[method],
  };
}

/** Undefined for methods that need data to start from. */
async function adapted(base: CausalLm, method: string): Promise<CausalLm | undefined> {
  try {
    return (await applyMethod(base, method, optionsOf(method), { seed: 4 })) as CausalLm;
  } catch (error) {
    if (error instanceof TunesmithError && error.code === "calibration-missing") return undefined;
    throw error;
  }
}

/** Of everything the model reads, trained or not. */
function hashOf(model: Model): string {
  const hash = createHash("sha256");
  for (const { tensor } of model.parameters.values()) hash.update(tensor.data as Float32Array);
  return hash.digest("hex");
}

/** Four steps whose second is the best; gives the hashes after each, and at the end. */
async function run(model: CausalLm, options: Partial<FitOptions> = {}) {
  const hashes: string[] = [];
  const plan = { batchSize: 4, lengths: [8], padId: 0 };
  const result = await fit(nextToken(model, { train: packs, ...plan }), {
    ...{ steps: 4, optimizer: adamw({ lr: 1e-2 }), session: { threads: 1, worker: false } },
    ...{ evalEvery: 1, patience: 9, stopOn: { metric: "quality", mode: "max" } },
    evaluators: [
      async ({ step }) => {
        hashes[step] = hashOf(model);
        return { quality: -Math.abs(2 - step) };
      },
    ],
    ...options,
  });
  return { hashes, restoredStep: result.restoredStep, end: hashOf(model) };
}

test.each(methodNames)("%s: continued, and brought back to its best, bit for bit", async (method) => {
  // Llama has no biases.
  const base = (await loadFolder(method === "bitfit" ? fixture("gpt2") : FIXTURE)) as CausalLm;
  const model = await adapted(base, method);
  if (!model) return;
  const straight = await run(model);
  expect(straight).toMatchObject({ restoredStep: 2, end: straight.hashes[2] });
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-methods-"));
  // Cancelled rather than shorter: methods may follow the number of steps.
  const controller = new AbortController();
  const cancelled = run((await adapted(base, method)) as CausalLm, {
    ...{ saveEvery: 3, runDir, signal: controller.signal },
    onEvent: (event) => event.type === "step" && event.step === 3 && controller.abort(),
  });
  await expect(cancelled).rejects.toMatchObject({ code: "cancelled" });
  const resumed = await run((await adapted(base, method)) as CausalLm, {
    saveEvery: 3,
    runDir,
    resume: true,
  });
  expect(resumed.hashes[4]).toBe(straight.hashes[4]);
  expect(resumed).toMatchObject({ restoredStep: 2, end: straight.hashes[2] });
});
