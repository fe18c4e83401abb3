import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Tensor } from "../tensor/index.js";
import { withFreshHead } from "./fresh-head.js";
import { loadModel } from "./load.js";
import { loadOnnxModel } from "./onnx/tensor-model.js";
import { endsWithName } from "./path-rules.js";
import { probe, probeOutputs, runModel } from "./probe.js";
import { sitesOf } from "./sites.js";

const FOLDER = new URL("../../fixtures/adaptable/", import.meta.url).pathname;
const load = (name: string) => loadOnnxModel(`${FOLDER}${name}.onnx`);

test.each([
  "bert",
  "bert_dynamic",
  "vit",
  "vit_fp16",
  "bert_q4",
  "convnet",
  "convnet_qdq",
  "convnet_dynamic",
])("%s gets a classifier of four classes", async (name) => {
  const base = await load(name);
  const model = withFreshHead(base, { labels: ["a", "b", "c", "d"], seed: 3 });
  const { feeds } = probe(model);
  const { logits } = await runModel(model, feeds);
  expect(logits?.shape).toEqual([1, 4]);
  expect(model.labels).toEqual(["a", "b", "c", "d"]);
  expect(model.config).toMatchObject({ num_labels: 4, id2label: { 0: "a", 3: "d" } });
  expect(model.task).toBe(name.startsWith("bert") ? "sequence-classification" : "image-classification");
  // All but the head is kept, and the head is what the weights say.
  const paths = (of: typeof base) => sitesOf(probeOutputs(of)).map(({ path }) => path);
  expect(paths(model)).toEqual(paths(base));
  const head = sitesOf(probeOutputs(model)).findLast(({ isHead }) => isHead);
  expect(head?.outFeatures).toBe(4);
  expect(model.weights.get(`${head?.path}.weight`)).toBe(head?.weight);
  expect(model.weights.get(`${head?.path}.bias`)).toBe(head?.bias);
  // The seed decides the numbers.
  const numbers = async (seed: number) =>
    (await runModel(withFreshHead(base, { labels: 4, seed }), feeds)).logits as Tensor;
  const [same, other] = [await numbers(3), await numbers(4)];
  expect([...same.data]).toEqual([...(logits?.data ?? [])]);
  expect([...other.data]).not.toEqual([...same.data]);
});

test("loadModel takes labels for an ONNX file", async () => {
  const model = await loadModel(`${FOLDER}vit.onnx`, { task: "image-classification", labels: 7 });
  expect(model.labels).toHaveLength(7);
  expect(sitesOf(probeOutputs(model)).at(-1)?.outFeatures).toBe(7);
});

test("a head with as many classes is kept, without the softmax behind it", async () => {
  const base = await load("convnet");
  const labels = ["a", "b", "c", "d", "e"];
  const model = await loadModel(`${FOLDER}convnet.onnx`, { task: "image-classification", labels });
  const { feeds } = probe(base);
  const [{ probabilities }, { logits }] = await Promise.all([runModel(base, feeds), runModel(model, feeds)]);
  const exps = Array.from(logits?.data as Float32Array, Math.exp);
  const sum = exps.reduce((a, b) => a + b, 0);
  exps.forEach((value, at) => {
    expect(value / sum).toBeCloseTo(Number(probabilities?.data[at]), 5);
  });
  expect(model.labels).toEqual(labels);
});

test("what has no head, no classes or adapters is refused", async () => {
  const encoder = await load("t5-encoder");
  expect(() => withFreshHead(encoder, { labels: 2 })).toThrow(/no classifier that can be replaced.*Mul/);
  const vit = await load("vit");
  expect(() => withFreshHead(vit, { labels: 0 })).toThrow(/0 classes/);
  expect(() => withFreshHead(vit, { labels: ["a", "a"] })).toThrow(/each name once|2 classes/);
});

const ASSETS = process.env.TUNESMITH_ASSETS ?? "../shared/assets";

// One is a convolution under a pooling with one map per class, the other has one linear map and no other default target.
test.each(["squeezenet/SqueezeNet_fp16.onnx", "mnist-onnx/mnist.onnx"])(
  "%s gives scores [batch, classes], and default targets below the head",
  async (file) => {
    const path = join(ASSETS, "models", file);
    if (!existsSync(path)) return console.warn(`skipped: ${path} is absent`);
    const model = await loadModel(path, { task: "image-classification", labels: ["a", "b", "c"] });
    const outputs = probeOutputs(model);
    expect(outputs.values.logits?.shape).toEqual([1, 3]);
    const sites = sitesOf(outputs);
    const [head] = sites.filter(({ outFeatures }) => outFeatures === 3);
    const chosen = sites.filter((site) => endsWithName(site.path, model.defaultTargets));
    expect(chosen).toHaveLength(sites.length - 1);
    expect(chosen).not.toContain(head);
  },
);
