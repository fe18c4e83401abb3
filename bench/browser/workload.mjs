// The work that every library gets: the shipped model's weights as plain arrays, an adapter's start, rows of ids.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { adapt, lora } from "tunesmith/methods";
import { defaultModelPath, loadModel } from "tunesmith/models";
import { rng } from "tunesmith/runtime";
import { castTensor, readTensor } from "tunesmith/tensor";

const [RANK, ALPHA, BATCHES] = [8, 16, 4];

/**
 * Everything in two parts: a description (JSON) with the place of each tensor, and the tensors' float32 bytes. B does not
 * start at zero here, so that the first loss already depends on the whole adapter.
 */
export async function makeWorkload({ batch, length }) {
  const base = await loadModel(await defaultModelPath());
  const model = await adapt(base, lora({ rank: RANK, alpha: ALPHA, targets: ["q_proj", "v_proj"] }));
  const [tensors, parts] = [{}, []];
  let offset = 0;
  const put = (name, shape, data) => {
    tensors[name] = { shape, offset, length: data.length };
    parts.push(data);
    offset += data.length;
  };
  for (const [name, value] of base.weights) {
    const { data } = castTensor(await readTensor(value.source.data), "float32");
    put(name, value.shape, data);
  }
  const adapter = [...model.parameters.values()].filter(({ trainable }) => trainable);
  for (const { name, tensor } of adapter) {
    put(name, tensor.shape, rng(7, name).fillNormal(new Float32Array(tensor.data.length), 0, 0.02));
  }
  const { config } = base;
  const vocabulary = base.sizes.vocabSize;
  const random = rng(5, "ids").fillUniform(new Float32Array(BATCHES * batch * length));
  return {
    description: {
      config,
      ...{ batch, length, vocabulary, rank: RANK, scale: ALPHA / RANK, learningRate: 1e-3 },
      adapter: adapter.map(({ name }) => name),
      tensors,
      ids: Array.from({ length: BATCHES }, (_, at) =>
        Array.from(random.subarray(at * batch * length, (at + 1) * batch * length), (x) =>
          Math.floor(x * vocabulary),
        ),
      ),
    },
    bytes: Buffer.concat(parts.map((part) => Buffer.from(part.buffer, part.byteOffset, part.byteLength))),
  };
}

/** Parameters of the model, embeddings counted once. */
export const parameterCount = ({ tensors, adapter }) =>
  Object.entries(tensors).reduce((sum, [name, { length }]) => sum + (adapter.includes(name) ? 0 : length), 0);

export const versionIn = (modules, name) =>
  JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")).version;
