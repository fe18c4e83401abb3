import { existsSync, readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { isTensorRef, type Tensor } from "../tensor/index.js";
import { causalLm } from "./causal-lm.js";
import { loadWeights, readJson } from "./checkpoint.js";
import { initModel } from "./init.js";
import { logitsOf, probeOutputs } from "./probe.js";
import type { CausalLm } from "./types.js";

const FIXTURES = new URL("../../fixtures/models/", import.meta.url).pathname;
const names = readdirSync(FIXTURES).filter((name) => existsSync(`${FIXTURES}${name}/config.json`));

const shapes = (model: CausalLm) =>
  Object.fromEntries([...model.weights].map(([name, { shape }]) => [name, shape]));

function dataOf(model: CausalLm, name: string): Float32Array {
  const source = model.weights.get(name)?.source;
  if (source?.kind !== "constant" || isTensorRef(source.data)) throw new Error(`${name} is not in memory`);
  return (source.data as Tensor).data as Float32Array;
}

function deviation(data: Float32Array): number {
  return Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length);
}

test.each(names)("%s: a fresh model has the tensors of a checkpoint", async (name) => {
  const config = await readJson(`${FIXTURES}${name}/config.json`);
  const fresh = initModel(config);
  const stored = causalLm(config, await loadWeights(`${FIXTURES}${name}`));
  expect(shapes(fresh)).toEqual(shapes(stored));
  // Building fails on a tensor without a place, or a place without a tensor.
  expect(probeOutputs(fresh).logits.shape).toEqual([2, fresh.sizes.vocabSize]);
});

const config = {
  model_type: "llama",
  vocab_size: 300,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 8,
  num_attention_heads: 4,
  tie_word_embeddings: true,
};

test("fresh weights have the recipe's spread, and logits are near uniform", async () => {
  const model = initModel(config, { seed: 5 });
  expect(deviation(dataOf(model, "model.embed_tokens.weight"))).toBeCloseTo(0.02, 3);
  expect(deviation(dataOf(model, "model.layers.3.mlp.down_proj.weight"))).toBeCloseTo(0.02 / 4, 4);
  expect(dataOf(model, "model.norm.weight").every((value) => value === 1)).toBe(true);
  const logits = (await logitsOf(model, [1, 2, 3])).data as Float32Array;
  expect(deviation(logits)).toBeGreaterThan(0.01);
  expect(deviation(logits)).toBeLessThan(1);
});

test("a seed fixes every tensor, and the config's initializer_range counts", () => {
  const name = "model.layers.0.self_attn.q_proj.weight";
  const first = dataOf(initModel(config, { seed: 5 }), name);
  expect(dataOf(initModel(config, { seed: 5 }), name)).toEqual(first);
  expect(dataOf(initModel(config, { seed: 6 }), name)).not.toEqual(first);
  const wide = dataOf(initModel({ ...config, initializer_range: 0.1 }, { seed: 5 }), name);
  expect(wide[0]).toBeCloseTo(5 * (first[0] as number), 5);
  expect(() => initModel({ ...config, vocab_size: -1 })).toThrow(/vocab_size/);
});
