import { expect, test } from "vitest";
import { reach } from "../graph/index.js";
import { adapt, lora, setActive, unfreeze } from "../methods/index.js";
import { initTensorModel, loadFolder } from "../models/index.js";
import { tensor } from "../tensor/index.js";
import {
  createStepper,
  dpo,
  exampleList,
  memoryPlan,
  multipleNegatives,
  type Objective,
  type StepBatch,
  type StepperOptions,
  tensorObjective,
} from "./index.js";

async function firstStep(objective: Objective, how: Partial<StepperOptions>) {
  const batch = (await objective.batches({ epoch: 0, step: 0 }, 1).next()).value as StepBatch;
  const stepper = createStepper(objective, { session: { threads: 1 }, ...how });
  try {
    return { ...(await stepper.run(batch, batch.count, [0])), shape: batch.shape };
  } finally {
    await stepper.close();
  }
}

type Step = Awaited<ReturnType<typeof firstStep>>;

function sameStep(found: Step, expected: Step) {
  expect(found.loss).toBeCloseTo(expected.loss, 5);
  expect(found.gradients.size).toBe(expected.gradients.size);
  for (const [name, values] of expected.gradients) {
    const other = found.gradients.get(name) as Float32Array;
    const most = Math.max(...values.map(Math.abs), 1e-3);
    values.forEach((value, at) => {
      expect(Math.abs((other[at] as number) - value) / most, name).toBeLessThan(1e-3);
    });
  }
}

async function bert(forwardRows?: number) {
  const sizes = {
    ...{ vocab_size: 20, hidden_size: 16, intermediate_size: 64 },
    ...{ num_hidden_layers: 4, num_attention_heads: 2, initializer_range: 0.3 },
  };
  const model = await unfreeze(initTensorModel({ model_type: "bert", ...sizes }, { task: "embedding" }));
  const row = (seed: number) => ({
    input_ids: tensor(
      "int64",
      [32],
      Array.from({ length: 32 }, (_, at) => (seed * 7 + at * 3) % 20),
    ),
    attention_mask: tensor("int64", [32], new Array(32).fill(1)),
  });
  const train = exampleList(
    [1, 2, 3, 4].map((at) => ({ inputs: row(at), more: [row(at + 5)], targets: {} })),
  );
  return tensorObjective(model, { train, batchSize: 4, loss: multipleNegatives({ scale: 5 }), forwardRows });
}

test("a tensor model's step with recomputed blocks is the same in less memory", async () => {
  const objective = await bert();
  const expected = await firstStep(objective, {});
  for (const recompute of [true, 2]) sameStep(await firstStep(objective, { recompute }), expected);
  const activations = (recompute: boolean | number) =>
    memoryPlan(objective, expected.shape, { recompute }).activations;
  expect(activations(true)).toBeLessThan(0.9 * activations(false));
  expect(activations(2)).toBeLessThan(activations(false));
});

test("recompute that would do nothing is refused", async () => {
  const parts = firstStep(await bert(2), { recompute: true });
  await expect(parts).rejects.toMatchObject({ code: "config-invalid", message: /forwardRows/ });
  const { model } = await bert();
  const blockless = {
    ...model,
    build: (given: Parameters<typeof model.build>[0]) => ({ ...model.build(given), boundaries: [] }),
  };
  const objective = tensorObjective(blockless, {
    ...{ train: exampleList([{ inputs: {}, targets: {} }]), batchSize: 1, loss: multipleNegatives({}) },
  });
  expect(() => objective.lossGraph({ batch: 1, length: 4 }, { training: true, recompute: true })).toThrow(
    /recognisable blocks/,
  );
});

test("preferences are learnt the same with recomputed blocks and few rows of logits", async () => {
  const folder = new URL("../../fixtures/models/gpt2", import.meta.url).pathname;
  const model = await adapt(await loadFolder(folder), lora({ rank: 2 }));
  const row = (...ids: number[]) => ({ ids: Int32Array.from(ids), lossMask: Uint8Array.of(0, 1, 1) });
  const objective = dpo(model, {
    ...{ train: [{ chosen: row(3, 9, 12), rejected: row(3, 8, 40) }], reference: setActive(model, []) },
    ...{ batchSize: 1, lengths: [8], padId: 0 },
  });
  const expected = await firstStep(objective, {});
  sameStep(await firstStep(objective, { recompute: true }), expected);
  sameStep(await firstStep(objective, { chunkRows: 3 }), expected);
  const nodes = (chunkRows?: number) =>
    reach([objective.lossGraph(expected.shape, { training: true, chunkRows }).loss], new Set()).values.length;
  // Sixteen rows of logits, three at a time.
  expect(nodes(3)).toBeGreaterThan(nodes());
});
