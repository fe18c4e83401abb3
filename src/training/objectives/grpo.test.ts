import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { input, makeGraph, ops, type Value } from "../../graph/index.js";
import { type AdaptedLm, adapt, lora, setActive } from "../../methods/index.js";
import { initModel, jsonFromVocabTxt, tokenizerFromJson } from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { rng } from "../../runtime/random/index.js";
import { tensor } from "../../tensor/index.js";
import { adamw, type FitOptions, fit } from "../index.js";
import { type GrpoOptions, groupAdvantages, grpo, policyLoss } from "./index.js";

test("advantages are relative to the group", () => {
  const rewards = [1, 2, 3, 5, 5, 5];
  const scaled = groupAdvantages(rewards, 3, "group");
  expect(scaled[0]).toBeCloseTo(-1, 3);
  expect(scaled[1]).toBeCloseTo(0, 6);
  expect(scaled.slice(3)).toEqual([0, 0, 0]);
  expect(groupAdvantages(rewards, 3, "leave-one-out")).toEqual([-1.5, 0, 1.5, 0, 0, 0]);
});

test("the clipped loss equals its formula, and its gradient the slope", async () => {
  const shape = [3, 4];
  const draw = (name: string, std: number) => rng(2, name).fillNormal(new Float32Array(12), -1, std);
  const [logs, old, reference] = [draw("logs", 0.4), draw("old", 0.4), draw("reference", 0.4)];
  const weights = Float32Array.of(1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0);
  const advantages = [1.2, -0.7, 0.4];
  const settings = { epsilon: 0.2, beta: 0.3 };
  const expected = advantages.map((gain, row) => {
    let [sum, count] = [0, 0];
    for (let at = 4 * row; at < 4 * row + 4; at++) {
      if (weights[at] === 0) continue;
      const ratio = Math.exp((logs[at] as number) - (old[at] as number));
      const clipped = Math.min(Math.max(ratio, 0.8), 1.2);
      const d = (reference[at] as number) - (logs[at] as number);
      sum += -Math.min(ratio * gain, clipped * gain) + 0.3 * (Math.exp(d) - d - 1);
      count++;
    }
    return sum / count;
  });
  const named = (name: string) => input(name, "float32", shape);
  const given = {
    logs: named("logs"),
    old: named("old"),
    reference: named("reference"),
    weights: named("weights"),
  };
  const gains = input("advantages", "float32", [3]);
  const each = policyLoss({ ...given, advantages: gains }, settings);
  const total = ops.reduceSum(each, undefined, false);
  const [slope] = gradients(total, [given.logs]) as [Value];
  const run = (values: Float32Array) =>
    evaluate(
      makeGraph(
        "policy",
        [...Object.values(given), gains],
        [
          ["each", each],
          ["slope", slope],
        ],
      ),
      {
        logs: tensor("float32", shape, values),
        old: tensor("float32", shape, old),
        reference: tensor("float32", shape, reference),
        weights: tensor("float32", shape, weights),
        advantages: tensor("float32", [3], advantages),
      },
      { threads: 1 },
    );
  const found = await run(logs);
  for (const [at, value] of expected.entries()) expect(Number(found.each?.data[at])).toBeCloseTo(value, 5);
  const sum = async (values: Float32Array) =>
    Array.from((await run(values)).each?.data as Float32Array).reduce((a, b) => a + b, 0);
  for (const at of [0, 2, 5, 8]) {
    const moved = (by: number) => logs.map((value, index) => value + (index === at ? by : 0));
    const difference = ((await sum(moved(1e-3))) - (await sum(moved(-1e-3)))) / 2e-3;
    expect(Number(found.slope?.data[at])).toBeCloseTo(difference, 2);
  }
});

const VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e".split(" ");

async function policy(): Promise<AdaptedLm> {
  const tokenizer = await tokenizerFromJson(jsonFromVocabTxt(VOCAB.join("\n")));
  const sizes = {
    vocab_size: VOCAB.length,
    hidden_size: 16,
    intermediate_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  };
  const base = {
    ...initModel({ model_type: "llama", ...sizes, initializer_range: 0.2 }, { seed: 2 }),
    tokenizer,
  };
  return adapt(base, lora({ rank: 4, alpha: 8, targets: "all-linear" }));
}

const OPTIONS: Omit<GrpoOptions, "reference"> = {
  prompts: ["a b", "c"],
  reward: ({ ids }) => ids.filter((id) => id === VOCAB.indexOf("e")).length,
  batchSize: 2,
  lengths: [16],
  padId: 0,
  groupSize: 6,
  maxTokens: 6,
  session: { threads: 1 },
};

async function run(lm: AdaptedLm, options: Partial<GrpoOptions>, more: Partial<FitOptions> = {}) {
  const means: number[] = [];
  const objective = grpo(lm, {
    ...OPTIONS,
    reference: setActive(lm, []),
    ...options,
    onAnswers: (_, rewards) => means.push(rewards.reduce((a, b) => a + b, 0) / rewards.length),
  });
  await fit(objective, { steps: 20, optimizer: adamw({ lr: 2e-2 }), session: { threads: 1 }, ...more });
  return means;
}
const average = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

test.each<[string, Partial<GrpoOptions>]>([
  ["grpo", {}],
  ["rloo", { advantage: "leave-one-out" }],
  ["two updates per answer", { iterations: 2 }],
])("%s: answers that are rewarded become likelier", async (_, options) => {
  const means = await run(await policy(), options);
  expect(average(means.slice(-4))).toBeGreaterThan(average(means.slice(0, 3)) + 1);
});

test("a continued run writes the same answers and ends with the same weights", async () => {
  const weights = (lm: AdaptedLm) =>
    [...lm.parameters.values()]
      .filter(({ trainable }) => trainable)
      .map(({ tensor: each }) => [...each.data]);
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-grpo-"));
  const [straight, resumed] = [await policy(), await policy()];
  await run(straight, {}, { steps: 4 });
  await run(await policy(), {}, { steps: 2, saveEvery: 2, runDir });
  await run(resumed, {}, { steps: 4, saveEvery: 2, runDir, resume: true });
  expect(weights(resumed)).toEqual(weights(straight));
});

test("no prompts, no reference and prompts that fill a row are refused", async () => {
  const lm = await policy();
  expect(() => grpo(lm, { ...OPTIONS, prompts: [] })).toThrow(/no prompts/);
  expect(() => grpo(lm, OPTIONS)).toThrow(/no reference/);
  await expect(run(lm, { lengths: [2] })).rejects.toMatchObject({ code: "data-invalid" });
});
