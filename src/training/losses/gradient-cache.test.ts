import { expect, test } from "vitest";
import { unfreeze } from "../../methods/index.js";
import { initTensorModel } from "../../models/index.js";
import { tensor } from "../../tensor/index.js";
import { createStepper, exampleList, multipleNegatives, type StepBatch, tensorObjective } from "../index.js";

test("gradients of a batch in parts are those of the whole batch", async () => {
  const sizes = {
    vocab_size: 20,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 2,
  };
  const model = await unfreeze(
    initTensorModel({ model_type: "bert", ...sizes, initializer_range: 0.3 }, { task: "embedding" }),
  );
  const row = (seed: number, length: number) => ({
    input_ids: tensor(
      "int64",
      [length],
      Array.from({ length }, (_, at) => (seed * 7 + at * 3) % 20),
    ),
    attention_mask: tensor("int64", [length], new Array(length).fill(1)),
  });
  const source = exampleList(
    [1, 2, 3].map((at) => ({ inputs: row(at, 3), more: [row(at + 5, 2 + at)], targets: {} })),
  );
  const gradientsOf = async (forwardRows?: number) => {
    const objective = tensorObjective(model, {
      ...{ train: source, batchSize: 4, loss: multipleNegatives({ scale: 5 }), forwardRows },
    });
    const batch = (await objective.batches({ epoch: 0, step: 0 }, 1).next()).value as StepBatch;
    const stepper = createStepper(objective, { session: { threads: 1 } });
    try {
      return await stepper.run(batch, batch.count, [0]);
    } finally {
      await stepper.close();
    }
  };
  const [whole, parts] = [await gradientsOf(), await gradientsOf(3)];
  expect(parts.loss).toBeCloseTo(whole.loss, 5);
  for (const [name, expected] of whole.gradients) {
    const found = parts.gradients.get(name) as Float32Array;
    const most = Math.max(...expected.map(Math.abs), 1e-3);
    expected.forEach((value, at) => {
      expect(Math.abs((found[at] as number) - value) / most, name).toBeLessThan(1e-3);
    });
  }
});
