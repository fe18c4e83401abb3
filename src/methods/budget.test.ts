import { expect, test } from "vitest";
import { initModel } from "../models/index.js";
import { adapt } from "./adapt.js";
import { trainedNumbers, withinBudget } from "./budget.js";
import { siteMethods } from "./catalog.js";
import { lora, ltSft, methodNamed, trainableCount } from "./index.js";

const SHAPE = {
  model_type: "llama",
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  attention_bias: true,
  mlp_bias: true,
};
const base = initModel(SHAPE, { seed: 2 });
const BUDGET = 3000;
const targets = ["q_proj", "down_proj"];
/** What some methods must be told on so small a model. */
const GIVEN: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "orthogonal-adaptation": { conceptId: "cat" },
  vblora: { vectors: 8, vectorLength: 8 },
  road: { groupSize: 8 },
  gralora: { blocks: 1 },
  adamss: { rank: 16 },
  alora: { invocation: [5] },
};

test("of weights with chosen entries, those count", async () => {
  const tuned = initModel(SHAPE, { seed: 3 });
  const { options } = methodNamed("lt-sft").within?.(base, {}, BUDGET) ?? {};
  expect(trainableCount(await ltSft(base, { ...options, tuned }))).toBe(BUDGET);
});

test("numbers are counted as they are made", async () => {
  const adaptation = lora({ rank: 3, targets });
  const model = await adapt(base, adaptation);
  const made = [...model.parameters.values()].filter(({ trainable }) => trainable);
  expect(trainedNumbers(base, adaptation)).toBe(
    made.reduce((sum, { tensor }) => sum + tensor.data.length, 0),
  );
});

test("lora takes the largest rank within the budget", () => {
  // Two layers of 2 · 32 + 96 numbers a rank: 320; nine ranks are 2880, and 9 is not tried.
  expect(withinBudget(base, siteMethods[0] as never, { targets }, BUDGET)).toEqual({
    options: { targets, rank: 8 },
    parameters: 2560,
  });
});

test.each(siteMethods.map((method) => [method.name, method] as const))(
  "%s: within the budget, or at its smallest size",
  (name, method) => {
    const { parameters, options } = withinBudget(base, method, { targets, ...GIVEN[name] }, BUDGET);
    expect(parameters).toBeGreaterThan(0);
    const config = method.schema.parse(options);
    expect(trainedNumbers(base, { method, config })).toBe(parameters);
    const isSized =
      method.sized !== undefined || "rank" in (method.schema as never as { shape: object }).shape;
    if (!isSized || parameters <= BUDGET) return;
    // Over it: then no other size is smaller.
    const smaller = withinBudget(base, method, { targets, ...GIVEN[name] }, parameters - 1);
    expect(smaller.parameters).toBeGreaterThanOrEqual(parameters);
  },
);

test("uora: a rank that no orthonormal rows can have is refused by name", () => {
  const method = siteMethods.find(({ name }) => name === "uora") as (typeof siteMethods)[number];
  const config = method.schema.parse({ targets, rank: 33 });
  expect(() => trainedNumbers(base, { method, config })).toThrow(/uora: rank 33 is above 32/);
});
