import { expect, test } from "vitest";
import { constant, ops, scope, type Value } from "../graph/index.js";
import { adapt, lora, merge, unfreeze } from "../methods/index.js";
import { runModel, type TensorModel } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../tensor/index.js";
import {
  adamw,
  createEvaluator,
  type ExampleSource,
  fit,
  type TensorLoss,
  type TrainEvent,
  tensorObjective,
} from "./index.js";

const random = (name: string, shape: number[], std: number) => {
  const data = rng(1, name).fillNormal(new Float32Array(shape.reduce((a, b) => a * b, 1)), 0, std);
  return constant(tensor("float32", shape, data), name);
};

/** Convolution, ReLU, mean over space, linear head. */
function smallNet(): TensorModel {
  const all = [
    random("conv.weight", [4, 2, 3, 3], 0.3),
    random("conv.bias", [4], 0.1),
    random("head.weight", [3, 4], 0.5),
  ];
  const weights = new Map(all.map((value) => [String(value.name), value] as const));
  const [kernel, bias, head] = all as [Value, Value, Value];
  return {
    task: "image-classification",
    architecture: "small",
    weights,
    parameters: new Map(),
    config: {},
    defaultTargets: ["conv"],
    tokenizer: undefined,
    origin: undefined,
    inputs: [{ name: "pixel_values", dtype: "float32", shape: ["batch", 2, 6, 6] }],
    probeAxes: { batch: 1 },
    build({ values }) {
      const x = values.pixel_values as Value;
      const convolved = scope("conv", () => ops.conv(x, kernel, bias, { pads: [1, 1, 1, 1] }));
      const pooled = ops.reduceMean(ops.relu(convolved), [2, 3], false);
      const logits = scope("head", () => ops.gemm(pooled, head, undefined, { transB: true }));
      return { values: { logits }, boundaries: [] };
    },
  };
}

/** Cross-entropy written out. */
const loss: TensorLoss = {
  name: "classify",
  targets: [{ name: "label", dtype: "int64", shape: ["batch"] }],
  sum({ outputs, targets, rowWeights }) {
    const picked = ops.gatherElements(
      ops.logSoftmax(outputs.logits as Value),
      ops.unsqueeze(targets.label as Value, 1),
      1,
    );
    return ops.neg(ops.reduceSum(ops.mul(ops.squeeze(picked, 1), rowWeights), undefined, false));
  },
};

/** Three kinds of stripes. */
function stripes(count: number, seed: number): ExampleSource {
  const noise = rng(seed, "stripes");
  const examples = Array.from({ length: count }, (_, index) => {
    const label = index % 3;
    const pixels = noise.fillNormal(new Float32Array(72), 0, 0.3);
    for (let at = 0; at < 72; at++) {
      const [row, column] = [Math.floor(at / 6) % 6, at % 6];
      const phase = label === 0 ? row : label === 1 ? column : row + column;
      pixels[at] = (pixels[at] as number) + (phase % 2 === 0 ? 1 : -1);
    }
    return {
      inputs: { pixel_values: tensor("float32", [2, 6, 6], pixels) },
      targets: { label: tensor("int64", [], [label]) },
    };
  });
  return {
    size: count,
    at: (index) => examples[index] as (typeof examples)[number],
    hash: `${count}/${seed}`,
  };
}

const run = async (
  model: TensorModel,
  extra: { batchSize?: number; accumulate?: number; steps?: number } = {},
) => {
  const losses: number[] = [];
  const objective = tensorObjective(model, {
    train: stripes(22, 1),
    validation: stripes(9, 2),
    batchSize: extra.batchSize ?? 8,
    loss,
  });
  const result = await fit(objective, {
    steps: extra.steps ?? 40,
    accumulate: extra.accumulate ?? 1,
    optimizer: adamw({ lr: 3e-2, weightDecay: 0 }),
    session: { threads: 1 },
    onEvent: (event: TrainEvent) => event.type === "step" && losses.push(event.loss),
  });
  return { losses, result };
};

test("LoRA on a convolution learns, and merges into the same network", async () => {
  const model = await adapt(smallNet(), lora({ rank: 2, alpha: 4, targets: ["conv", "head"] }));
  const { losses, result } = await run(model);
  expect(losses.at(-1)).toBeLessThan(0.5 * (losses[0] as number));
  expect(result.evaluation?.count).toBe(9);
  const pixels = (await stripes(4, 7).at(0)).inputs.pixel_values as Tensor;
  const batch = { pixel_values: tensor("float32", [1, 2, 6, 6], pixels.data as Float32Array) };
  const apart = (await runModel(model, batch)).logits as Tensor;
  const merged = (await runModel(await merge(model), batch)).logits as Tensor;
  const plain = (await runModel(smallNet(), batch)).logits as Tensor;
  expect(maxAbsDiff(merged, apart)).toBeLessThan(1e-5);
  expect(maxAbsDiff(plain, apart)).toBeGreaterThan(0.01);
});

test("rows that fill a batch up count nothing, and micro-batches add up to one", async () => {
  const [a, b] = [await unfreeze(smallNet()), await unfreeze(smallNet())];
  const whole = await run(a, { batchSize: 22, steps: 3 });
  // 22 examples in batches of 8: the last is filled up with two rows.
  const parts = await run(b, { batchSize: 8, accumulate: 3, steps: 3 });
  for (const [at, value] of whole.losses.entries()) expect(parts.losses[at]).toBeCloseTo(value, 4);
  for (const [name, { tensor: trained }] of a.unfrozen)
    expect(maxAbsDiff(b.unfrozen.get(name)?.tensor as Tensor, trained)).toBeLessThan(1e-3);
});

test("an evaluation does not depend on the batch size", async () => {
  const means = await Promise.all(
    [4, 9].map(async (batchSize) => {
      const objective = tensorObjective(smallNet(), {
        train: stripes(3, 1),
        validation: stripes(9, 2),
        batchSize,
        loss,
      });
      const evaluator = createEvaluator(objective, { session: { threads: 1 } });
      const { loss: mean } = await evaluator.run(objective.validation?.() ?? []);
      await evaluator.close();
      return mean;
    }),
  );
  expect(means[0]).toBeCloseTo(means[1] as number, 5);
});

test("an example that does not fit is named", async () => {
  const bad: ExampleSource = {
    size: 1,
    at: () => ({ inputs: { pixel_values: tensor("float32", [2, 6], new Float32Array(12)) }, targets: {} }),
    hash: "bad",
  };
  const model = await unfreeze(smallNet());
  const objective = tensorObjective(model, { train: bad, batchSize: 1, loss });
  await expect(fit(objective, { steps: 1, optimizer: adamw({ lr: 1e-3 }) })).rejects.toMatchObject({
    code: "data-invalid",
    message: expect.stringContaining("pixel_values"),
  });
});
