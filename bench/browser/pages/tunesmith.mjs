// The work in Tunesmith: training in a worker with two WASM threads.
import { packExamples } from "tunesmith/data";
import { constant } from "tunesmith/graph";
import { adapt, lora } from "tunesmith/methods";
import { causalLm } from "tunesmith/models";
import { configureRuntime } from "tunesmith/runtime";
import { tensor } from "tunesmith/tensor";
import { adamw, createStepper, nextToken, nextTokenBatches } from "tunesmith/training";
import { trainer } from "./measure.mjs";

async function prepare(work) {
  configureRuntime({ wasmPaths: "/ort/" });
  const { batch, length, adapter, tensors, rank, scale } = work;
  const weights = Object.entries(tensors)
    .filter(([name]) => !adapter.includes(name))
    .map(([name, { shape, data }]) => [name, constant(tensor("float32", shape, data), name)]);
  const base = causalLm(work.config, new Map(weights));
  const model = await adapt(base, lora({ rank, alpha: rank * scale, targets: ["q_proj", "v_proj"] }));
  for (const name of adapter) model.parameters.get(name).tensor.data.set(tensors[name].data);
  const params = new Map(adapter.map((name) => [name, model.parameters.get(name).tensor.data]));
  const optimizer = adamw({ lr: work.learningRate, weightDecay: 0 });
  const state = optimizer.init(params);
  const session = { backend: "wasm", threads: 2, worker: true };
  const stepper = createStepper(nextToken(model, plan(batch, length)), { session });
  return async (ids, at) => {
    const data = rows(ids, batch, length);
    const { loss, gradients } = await stepper.run(data, data.count, [at]);
    optimizer.step(params, gradients, state, { step: at });
    return loss;
  };
}

const plan = (batchSize, length) => ({ batchSize, lengths: [length], padId: 0 });

function rows(ids, batch, length) {
  const examples = Array.from({ length: batch }, (_, row) => ({
    ids: Int32Array.from(ids.slice(row * length, (row + 1) * length)),
    lossMask: new Uint8Array(length).fill(1, 1),
  }));
  const packs = packExamples(examples, { length, strategy: "none" });
  const [first] = nextTokenBatches(packs, plan(batch, length));
  return first;
}

export const library = trainer(prepare);
