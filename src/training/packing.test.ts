import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packExamples, type TokenizedExample } from "../data/index.js";
import { adapt, lora } from "../methods/index.js";
import { type CausalLm, exportOnnx, loadFolder, loadModel } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { createStepper, nextToken, nextTokenBatches, type StepBatch } from "./index.js";

/**
 * Documents that share rows must have the gradients they have alone, whatever the attention: plain, grouped, within a
 * sliding window (of 4 tokens in these models, less than a document has), capped, with the mask of an imported file.
 */
const FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "llama3-rope"];
const FIXTURE = (name: string) => new URL(`../../fixtures/models/${name}`, import.meta.url).pathname;
const [LENGTH, BATCH] = [24, 3];

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "packing-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Documents of 3 to 15 tokens, with holes in what is trained. */
function documents(seed: number): TokenizedExample[] {
  const random = rng(seed, "documents");
  return Array.from({ length: 9 }, () => {
    const length = 3 + Math.floor(random.uniform() * 13);
    const ids = Int32Array.from({ length }, () => 1 + Math.floor(random.uniform() * 58));
    const lossMask = Uint8Array.from({ length }, (_, at) => (at > 0 && random.uniform() < 0.8 ? 1 : 0));
    return { ids, lossMask: lossMask.fill(1, length - 1) };
  });
}

/** Loss and gradients of all documents as one update. */
async function gradients(
  base: CausalLm,
  rows: readonly TokenizedExample[],
  strategy: "ffd" | "sequential" | "none",
) {
  const model = await adapt(base, lora({ rank: 2, alpha: 8, targets: "all-linear" }));
  // Not at its start, where half of the gradients are zero.
  for (const { tensor, trainable } of model.parameters.values())
    if (trainable)
      (tensor.data as Float32Array).set(
        Float32Array.from({ length: tensor.data.length }, (_, at) => Math.sin(at + 1) / 8),
      );
  const plan = { batchSize: BATCH, lengths: [LENGTH], padId: 0 };
  const packs = packExamples(rows, { length: LENGTH, strategy });
  const batches: StepBatch[] = [...nextTokenBatches(packs, plan)];
  const items = batches.reduce((sum, { count }) => sum + count, 0);
  const stepper = createStepper(nextToken(model, plan), { session: { threads: 1 } });
  let loss = 0;
  const sums = new Map<string, Float64Array>();
  for (const batch of batches) {
    const result = await stepper.run(batch, items, [1]);
    loss += result.loss;
    for (const [name, values] of result.gradients) {
      const sum = sums.get(name) ?? new Float64Array(values.length);
      values.forEach((value, at) => {
        sum[at] = Number(sum[at]) + value;
      });
      sums.set(name, sum);
    }
  }
  await stepper.close();
  return { loss, sums, rows: packs.length };
}

async function expectNoLeak(base: CausalLm, seed: number) {
  const rows = documents(seed);
  const alone = await gradients(base, rows, "none");
  for (const strategy of ["ffd", "sequential"] as const) {
    const packed = await gradients(base, rows, strategy);
    expect(packed.rows).toBeLessThan(alone.rows);
    expect(Math.abs(packed.loss - alone.loss)).toBeLessThan(2e-5);
    for (const [name, values] of packed.sums) {
      const expected = alone.sums.get(name) ?? new Float64Array();
      const scale = Math.max(1e-3, ...expected.map(Math.abs));
      const worst = Math.max(...values.map((value, at) => Math.abs(value - Number(expected[at]))));
      expect(worst / scale, `${strategy}: ${name}`).toBeLessThan(1e-3);
    }
  }
}

describe.each(FAMILIES)("%s", (name) => {
  test.each([1, 2])("packed documents have the gradients they have alone (%i)", async (seed) => {
    await expectNoLeak(await loadFolder(FIXTURE(name)), seed);
  });
});

test.each(["gpt2", "mistral", "gemma2"])(
  "%s from an ONNX file keeps packed documents apart",
  async (name) => {
    const { path } = await exportOnnx(await loadFolder(FIXTURE(name)), join(folder, name));
    const imported = (await loadModel(path)) as CausalLm;
    expect(imported.packable).not.toBe(false);
    await expectNoLeak(imported, 3);
  },
);
