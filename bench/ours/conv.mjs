// LoRA on every convolution of a ResNet, measured as bench/peers/torch_conv.py measures its peer: same options, same report.
//   node bench/ours/conv.mjs --model DIR --batch 8 --size 96 --threads 2
import { parseArgs } from "node:util";
import { adapt, lora, unfreeze } from "tunesmith/methods";
import { loadModel } from "tunesmith/models";
import { rng } from "tunesmith/runtime";
import { tensor } from "tunesmith/tensor";
import { adamw, classification, createStepper, tensorObjective } from "tunesmith/training";
import { memorySampler, secondsSinceProcessStart } from "./process.mjs";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    bare: { type: "boolean", default: false },
    batch: { type: "string", default: "8" },
    size: { type: "string", default: "96" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "6" },
    warmup: { type: "string", default: "2" },
    rank: { type: "string", default: "8" },
  },
});
const number = (name) => Number(values[name]);
const [batch, size] = [number("batch"), number("size")];

const sampler = memorySampler();
const base = await loadModel(values.model, { task: "image-classification" });
const model = values.bare
  ? await unfreeze(base, { select: /^classifier/ })
  : await adapt(base, lora({ rank: number("rank"), targets: ["convolution"] }));
const trained = [...model.parameters.values()].filter((parameter) => parameter.trainable);
const params = new Map(trained.map(({ name, tensor: own }) => [name, own.data]));
const examples = {
  size: batch,
  hash: "bench",
  at: (index) => ({
    inputs: {
      pixel_values: tensor(
        "float32",
        [3, size, size],
        rng(0, "pixels", index).fillNormal(new Float32Array(3 * size * size)),
      ),
    },
    targets: { label: tensor("int64", [], [index % 10]) },
  }),
};
const objective = tensorObjective(model, { train: examples, batchSize: batch, loss: classification() });
const stepper = createStepper(objective, { session: { threads: number("threads"), worker: true } });
const optimizer = adamw({ lr: 1e-3, weightDecay: 0 });
const state = optimizer.init(params);
const { value: data } = await objective.batches({ epoch: 0, step: 0 }, 0).next();
const seconds = [];
let startToFirstStepSeconds;
for (let step = 0; step < number("warmup") + number("steps"); step++) {
  const start = performance.now();
  const { gradients } = await stepper.run(data, data.count, [step]);
  optimizer.step(params, gradients, state, { step: step + 1 });
  seconds.push((performance.now() - start) / 1000);
  startToFirstStepSeconds ??= secondsSinceProcessStart();
}
const memory = sampler.stop();
await stepper.close();
console.log(
  JSON.stringify({
    peer: "tunesmith",
    startToFirstStepSeconds,
    trainableParameters: trained.reduce((sum, { tensor: own }) => sum + own.data.length, 0),
    ...memory,
    medianStepSeconds: seconds.slice(number("warmup")).toSorted((a, b) => a - b)[
      Math.floor(number("steps") / 2)
    ],
  }),
);
