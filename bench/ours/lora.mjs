// One LoRA training run of Tunesmith, measured as bench/peers/torch_lora.py measures its peer: same options, same report.
//   node bench/ours/lora.mjs --model DIR --batch 4 --length 128 --threads 2
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { packExamples } from "tunesmith/data";
import { adapt, lora } from "tunesmith/methods";
import { loadFolder, quantizeModel } from "tunesmith/models";
import { openSafetensors } from "tunesmith/tensor";
import { adamw, createStepper, nextToken, nextTokenBatches } from "tunesmith/training";
import { memorySampler, secondsSinceProcessStart } from "./process.mjs";
import { gemmShare } from "./profile.mjs";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    inputs: { type: "string" },
    batch: { type: "string", default: "4" },
    length: { type: "string", default: "128" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "10" },
    warmup: { type: "string", default: "2" },
    rank: { type: "string", default: "8" },
    alpha: { type: "string", default: "16" },
    lr: { type: "string", default: "1e-3" },
    targets: { type: "string", default: "c_attn" },
    "layers-from": { type: "string", default: "0" },
    epochs: { type: "string", default: "0" },
    batches: { type: "string", default: "8" },
    accumulate: { type: "string", default: "1" },
    "chunk-rows": { type: "string" },
    recompute: { type: "boolean", default: false },
    "prefix-cache": { type: "boolean", default: false },
    prepack: { type: "boolean", default: false },
    spin: { type: "boolean", default: false },
    profile: { type: "string" },
    quantize: { type: "string" },
  },
});
const number = (name) => Number(values[name]);
const [batch, length] = [number("batch"), number("length")];

const sampler = memorySampler();
const floats = await loadFolder(values.model);
const base = values.quantize ? await quantizeModel(floats, JSON.parse(values.quantize)) : floats;
const firstLayer = number("layers-from");
const layers = Array.from({ length: base.sizes.layers }, (_, layer) => layer).filter(
  (layer) => layer >= firstLayer,
);
const model = await adapt(
  base,
  lora({ rank: number("rank"), alpha: number("alpha"), targets: values.targets.split(","), layers }),
);
const trained = [...model.parameters.values()].filter((parameter) => parameter.trainable);
const params = new Map(trained.map(({ name, tensor }) => [name, tensor.data]));
const optimizer = adamw({ lr: number("lr"), weightDecay: 0 });
const state = optimizer.init(params);
const session = {
  threads: number("threads"),
  ...(values.prepack ? { prepack: true } : {}),
  spin: values.spin,
  // ONNX Runtime writes its profile when a session is released, which must happen in this thread.
  ...(values.profile ? { profile: values.profile } : { worker: true }),
};
const chunkRows = values["chunk-rows"] ? { chunkRows: number("chunk-rows") } : {};
const plan = { batchSize: batch, lengths: [length], padId: 0, ...chunkRows };
const stepper = createStepper(nextToken(model, plan), {
  session,
  recompute: values.recompute,
  ...(values["prefix-cache"] ? { prefixCacheBytes: 2 ** 31 } : {}),
});

const batches = await loadBatches();
const epochs = number("epochs");
const count = epochs * batches.length || number("warmup") + number("steps");
const [seconds, losses, cpu] = [[], [], []];
let startToFirstStepSeconds;
for (let step = 0; step < count; step++) {
  const [start, used] = [performance.now(), process.cpuUsage()];
  const { loss, gradients } = await gradientsOf(step);
  optimizer.step(params, gradients, state, { step: step + 1 });
  seconds.push((performance.now() - start) / 1000);
  const { user, system } = process.cpuUsage(used);
  cpu.push((user + system) / 1e6);
  losses.push(Number(loss.toFixed(6)));
  startToFirstStepSeconds ??= secondsSinceProcessStart();
}
const memory = sampler.stop();
await stepper.close();
console.log(JSON.stringify(report()));

/** Loss and gradients of a step's batches, added up. */
async function gradientsOf(step) {
  const many = number("accumulate");
  const group = Array.from({ length: many }, (_, micro) => batches[(step * many + micro) % batches.length]);
  const items = group.reduce((sum, data) => sum + data.count, 0);
  const [first, ...rest] = group;
  const sum = await stepper.run(first, items, [step]);
  let { loss } = sum;
  for (const data of rest) {
    const more = await stepper.run(data, items, [step]);
    loss += more.loss;
    for (const [name, values] of more.gradients) {
      const total = sum.gradients.get(name);
      for (let at = 0; at < total.length; at++) total[at] += values[at];
    }
  }
  return { loss, gradients: sum.gradients };
}

/** Fixed random rows, or those a peer wrote, as packs of one document each. */
async function loadBatches() {
  const total = number("batches");
  const ids = values.inputs
    ? Int32Array.from((await (await openSafetensors(values.inputs)).read("input_ids")).data, Number)
    : Int32Array.from({ length: total * batch * length }, (_, at) => (at * 7919 + 13) % base.sizes.vocabSize);
  const examples = Array.from({ length: ids.length / length }, (_, row) => ({
    ids: ids.slice(row * length, (row + 1) * length),
    lossMask: new Uint8Array(length).fill(1, 1),
  }));
  const packs = packExamples(examples, { length, strategy: "none" });
  return [...nextTokenBatches(packs, plan)];
}

function report() {
  const timed = epochs ? seconds : seconds.slice(number("warmup"));
  const perEpoch = Array.from({ length: epochs }, (_, at) =>
    seconds.slice(at * batches.length, (at + 1) * batches.length).reduce((a, b) => a + b, 0),
  );
  return {
    peer: "tunesmith",
    versions: { node: process.version, "onnxruntime-node": runtimeVersion() },
    trainableParameters: trained.reduce((sum, { tensor }) => sum + tensor.data.length, 0),
    startToFirstStepSeconds,
    ...(base.quantization ? { keptMb: base.quantization.keptBytes / 2 ** 20 } : {}),
    ...memory,
    losses,
    ...(epochs ? { epochSeconds: perEpoch, totalSeconds: seconds.reduce((a, b) => a + b, 0) } : {}),
    stepSeconds: timed,
    medianCpuSeconds: median(cpu.slice(number("warmup"))),
    medianStepSeconds: median(timed),
    ...(values.profile ? { profile: gemmShare(values.profile) } : {}),
  };
}

function median(list) {
  return list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
}

function runtimeVersion() {
  const url = new URL("../../node_modules/onnxruntime-node/package.json", import.meta.url);
  return JSON.parse(readFileSync(url, "utf8")).version;
}
