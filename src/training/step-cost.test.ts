import { expect, test } from "vitest";
import { adapt, lora, unfreeze } from "../methods/index.js";
import { initModel } from "../models/index.js";
import { nextToken, stepCost } from "./index.js";

const [WIDTH, INNER, VOCAB, LENGTH, BATCH, RANK] = [32, 64, 48, 8, 2, 4];
const base = initModel(
  {
    ...{ model_type: "llama", vocab_size: VOCAB, hidden_size: WIDTH, intermediate_size: INNER },
    ...{ num_hidden_layers: 1, num_attention_heads: 1, tie_word_embeddings: false },
  },
  { seed: 1 },
);
const plan = { batchSize: BATCH, lengths: [LENGTH], padId: 0 };
const shape = { batch: BATCH, length: LENGTH };
/** Products of q, k, v, o and the three of the feed-forward part with one token, and attention's with all. */
const TOKENS = BATCH * LENGTH;
const maps = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER;
const attention = 2 * TOKENS * LENGTH * WIDTH;
const head = TOKENS * WIDTH * VOCAB;

test("full fine-tuning: every map three times", async () => {
  const { productFlops, passBytes } = stepCost(nextToken(await unfreeze(base), plan), shape);
  expect(productFlops).toBe(2 * 3 * (TOKENS * maps + attention + head));
  expect(passBytes).toBeGreaterThan(0);
});

test("LoRA on the last map of all: nothing below it is differentiated", async () => {
  const model = await adapt(base, lora({ rank: RANK, targets: ["down_proj"] }));
  const { productFlops } = stepCost(nextToken(model, plan), shape);
  const forward = TOKENS * maps + attention + head;
  const factors = TOKENS * RANK * (WIDTH + INNER);
  // Forward; of the head the gradient of its input; of the factors that of both, and of B's input.
  expect(productFlops).toBe(2 * (forward + head + 2 * factors + TOKENS * RANK * WIDTH));
});

test("products are what a longer batch multiplies", async () => {
  const model = await adapt(base, lora({ rank: RANK }));
  const cost = (batch: number) =>
    stepCost(nextToken(model, { ...plan, batchSize: batch }), { ...shape, batch });
  expect(cost(4).productFlops).toBe(2 * cost(2).productFlops);
  expect(cost(4).operators).toBe(cost(2).operators);
});

test("LoRA on one more map runs its two products more, forward and backward", async () => {
  const operators = async (targets: string[]) => {
    const model = await adapt(base, lora({ rank: RANK, targets }));
    return stepCost(nextToken(model, plan), shape).operators;
  };
  const [one, two] = [await operators(["down_proj"]), await operators(["down_proj", "up_proj"])];
  // Forward two products; backward two per factor and what brings the gradient to the map's output; never fewer than these six.
  expect(two - one).toBeGreaterThanOrEqual(6);
});
