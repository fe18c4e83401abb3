import { expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { initModel, loadFolder, logitsOf, probeIds } from "../models/index.js";
import { maxAbsDiff, type Tensor } from "../tensor/index.js";
import {
  adamw,
  createStepper,
  nextToken,
  nextTokenBatches,
  type StepBatch,
  train,
} from "../training/index.js";
import { adapt } from "./adapt.js";
import { freeze, type UnfrozenLm, unfreeze } from "./full.js";
import { lora } from "./lowrank/lora.js";

const config = {
  model_type: "llama",
  vocab_size: 40,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  tie_word_embeddings: true,
};
const EMBEDDING = "model.embed_tokens.weight";
const fixture = (name: string) => new URL(`../../fixtures/models/${name}`, import.meta.url).pathname;

const examples = [
  [3, 9, 3, 11, 3, 9],
  [7, 3, 9, 12, 7],
].map((ids) => ({
  ids: Int32Array.from(ids),
  lossMask: new Uint8Array(ids.length).fill(1, 1),
}));
const packs = packExamples(examples, { length: 8, strategy: "none" });
const plan = { batchSize: 2, lengths: [8], padId: 0 };
const [batch] = nextTokenBatches(packs, plan) as unknown as [StepBatch];

async function lossAndGradients(model: UnfrozenLm) {
  const stepper = createStepper(nextToken(model, plan), { session: { threads: 1 } });
  try {
    return await stepper.run(batch, batch.count, [1]);
  } finally {
    await stepper.close();
  }
}

test("a tied embedding is one parameter, and its gradient is that of both uses", async () => {
  const model = await unfreeze(initModel(config, { seed: 2 }), { select: [EMBEDDING] });
  expect([...model.parameters.keys()]).toEqual([EMBEDDING]);
  const weights = model.unfrozen.get(EMBEDDING)?.tensor.data as Float32Array;
  const { gradients } = await lossAndGradients(model);
  const gradient = gradients.get(EMBEDDING) as Float32Array;
  // Rows of tokens that are read and predicted, and of one that is only scored.
  for (const at of [3 * 16, 9 * 16 + 5, 12 * 16 + 1, 30 * 16 + 2]) {
    const [kept, step] = [weights[at] as number, 1e-2];
    weights[at] = kept + step;
    const up = (await lossAndGradients(model)).loss;
    weights[at] = kept - step;
    const down = (await lossAndGradients(model)).loss;
    weights[at] = kept;
    const expected = (up - down) / (2 * step);
    expect(Math.abs((gradient[at] as number) - expected)).toBeLessThan(2e-4 + 0.02 * Math.abs(expected));
  }
});

test("all weights train, and freezing keeps the logits", async () => {
  const base = await loadFolder(fixture("gpt2"));
  const ids = probeIds(base.sizes.vocabSize);
  const before = await logitsOf(base, ids);
  const model = await unfreeze(base);
  expect(model.unfrozen.size).toBe(base.weights.size);
  expect(maxAbsDiff(await logitsOf(model, ids), before)).toBeLessThan(1e-6);
  const losses: number[] = [];
  await train(model, {
    train: packs,
    batchSize: 2,
    lengths: [8],
    steps: 12,
    padId: 0,
    optimizer: adamw({ lr: 1e-2 }),
    session: { threads: 1 },
    onEvent: (event) => event.type === "step" && losses.push(event.loss),
  });
  expect(losses.at(-1)).toBeLessThan(0.6 * (losses[0] as number));
  const trained = await logitsOf(model, ids);
  const plain = freeze(model);
  expect(maxAbsDiff(await logitsOf(plain, ids), trained)).toBeLessThan(1e-6);
  expect(plain.parameters.size).toBe(0);
  // Both are untouched by what happens to the parameters next.
  for (const { tensor } of model.parameters.values()) (tensor.data as Float32Array).fill(0);
  expect(maxAbsDiff(await logitsOf(plain, ids), trained)).toBeLessThan(1e-6);
  expect(maxAbsDiff(await logitsOf(base, ids), before)).toBe(0);
});

test("a frozen model can be adapted: its sites are the base's", async () => {
  const model = await unfreeze(initModel(config, { seed: 2 }));
  const scale = model.unfrozen.get("model.norm.weight")?.tensor as Tensor;
  (scale.data as Float32Array).fill(2);
  const plain = freeze(model);
  const adapted = await adapt(plain, lora({ rank: 2, targets: ["q_proj", "down_proj"] }));
  expect(adapted.adapters.get("default")?.sites.size).toBe(4);
  const ids = [1, 5, 9];
  expect(maxAbsDiff(await logitsOf(adapted, ids), await logitsOf(plain, ids))).toBeLessThan(1e-6);
});

test("part of the weights, chosen by expression or name", async () => {
  const base = initModel(config);
  const norms = await unfreeze(base, { select: "norm" });
  expect(norms.unfrozen.size).toBe(5);
  expect([...norms.unfrozen.keys()].every((name) => name.includes("norm"))).toBe(true);
  expect((await unfreeze(base, { select: /layers\.1\..*proj/g })).unfrozen.size).toBe(7);
  expect(freeze(norms).weights.get(EMBEDDING)).toBe(base.weights.get(EMBEDDING));
});

test("bad selections", async () => {
  const base = initModel(config);
  await expect(unfreeze(base, { select: "nowhere" })).rejects.toMatchObject({ code: "target-not-found" });
  await expect(unfreeze(base, { select: ["model.nrm.weight"] })).rejects.toThrow(/near|model.norm.weight/);
  await expect(unfreeze(base, { select: "(" })).rejects.toMatchObject({ code: "config-invalid" });
  const once = await unfreeze(base, { select: "norm" });
  const twice = await unfreeze(once, { select: "down_proj" });
  expect([...twice.parameters.keys()].length).toBe(7);
  expect(freeze(twice).parameters.size).toBe(0);
  await expect(unfreeze(once, { select: "norm" })).rejects.toMatchObject({ code: "name-conflict" });
  expect(() => freeze(base)).toThrow(/no unfrozen weights/);
});
