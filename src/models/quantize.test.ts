import { expect, test } from "vitest";
import { maxAbsDiff, type Tensor, tensor } from "../tensor/index.js";
import {
  generate,
  initTensorModel,
  loadFolder,
  loadModel,
  loadOnnxModel,
  logitsOf,
  type Model,
  probeOutputs,
  type QuantizeModelOptions,
  quantizeModel,
  runModel,
  sitesOf,
} from "./index.js";

const fixture = (path: string) => new URL(`../../fixtures/${path}`, import.meta.url).pathname;
const IDS = [3, 17, 40, 5, 5, 61, 0, 22];

const distance = (a: Tensor, b: Tensor): number => {
  const [x, y] = [a.data as Float32Array, b.data as Float32Array];
  return Math.hypot(...x.map((value, at) => value - (y[at] as number))) / Math.hypot(...y);
};

const kinds: [string, QuantizeModelOptions, number][] = [
  ["int8", { kind: "int8" }, 0.02],
  ["int8-dynamic", { kind: "int8-dynamic" }, 0.1],
  ["int4", { kind: "int4", blockSize: 16 }, 0.35],
  ["int4 with zero points", { kind: "int4", symmetric: false, blockSize: 16 }, 0.35],
  ["nf4", { kind: "nf4", blockSize: 16 }, 0.5],
  ["nf of 4 bits", { kind: "nf", bits: 4, blockSize: 16, scaleDtype: "float16" }, 0.5],
  ["nf of 3 bits", { kind: "nf", blockSize: 16 }, 0.9],
  ["nf of 8 bits", { kind: "nf", bits: 8, blockSize: 16 }, 0.05],
];

test.each(kinds)("%s: GPT-2 and Llama stay near their logits", async (_, options, most) => {
  for (const name of ["gpt2", "llama"]) {
    const base = await loadFolder(fixture(`models/${name}`));
    const small = await quantizeModel(base, options);
    const apart = distance(await logitsOf(small, IDS), await logitsOf(base, IDS));
    expect(apart, name).toBeLessThan(most);
    expect(apart, name).toBeGreaterThan(0);
    const { quantization } = small;
    expect(quantization?.keptBytes).toBeLessThan((quantization?.floatBytes ?? 0) * 0.45);
    expect(quantization?.left.map(({ reason }) => reason)).toEqual(["the output head"]);
  }
});

test("modules keep their paths, names and geometry; embeddings, norms and the head stay floats", async () => {
  const base = await loadFolder(fixture("models/gpt2"));
  const small = await quantizeModel(base, "int4");
  const shown = (model: Model) =>
    sitesOf(probeOutputs(model)).map(({ path, kind, weightName, inFeatures, outFeatures, bias, isHead }) =>
      [path, kind, weightName, inFeatures, outFeatures, bias !== undefined, isHead].join(" "),
    );
  expect(shown(small)).toEqual(shown(base));
  const stored = sitesOf(probeOutputs(small)).filter((site) => site.stored);
  expect(stored.length).toBe(small.quantization?.sites.size);
  expect(stored.every(({ kind, isHead }) => kind === "linear" && !isHead)).toBe(true);
});

test("exclude and head choose what is quantised", async () => {
  const base = await loadFolder(fixture("models/llama"));
  const small = await quantizeModel(base, { kind: "int8", exclude: ["o_proj"] });
  expect([...(small.quantization?.sites.keys() ?? [])].some((path) => path.endsWith("o_proj"))).toBe(false);
  expect(small.quantization?.left.filter(({ reason }) => reason === "excluded").length).toBeGreaterThan(0);
  await expect(quantizeModel(base, { kind: "int8", exclude: ".*" })).rejects.toMatchObject({
    code: "target-not-found",
  });
  await expect(quantizeModel(small, "int8")).rejects.toThrow(/quantised already/);
});

test("a quantised model generates, with a cache, what it generates without", async () => {
  const model = await loadModel(fixture("models/llama"), { quantize: { kind: "int4", blockSize: 16 } });
  const { ids } = await generate(model, IDS, { maxTokens: 5 });
  const whole = (await logitsOf(model, [...IDS, ...ids.slice(0, 4)])) as Tensor;
  const vocabulary = whole.shape.at(-1) as number;
  const row = (whole.data as Float32Array).slice(-vocabulary);
  expect(ids[4]).toBe(row.indexOf(Math.max(...row)));
});

test("imported ONNX models and tensor models are quantised alike", async () => {
  const onnx = await loadOnnxModel(fixture("onnx/gpt2.onnx"));
  const ids = { input_ids: tensor("int64", [1, 6], [3, 17, 40, 5, 61, 22]) };
  const small = await quantizeModel(onnx, "int8");
  expect(small.quantization?.sites.size).toBeGreaterThan(3);
  const [whole, less] = [await runModel(onnx, ids), await runModel(small, ids)];
  const [name] = Object.keys(whole) as [string];
  expect(distance(less[name] as Tensor, whole[name] as Tensor)).toBeLessThan(0.02);
  expect(distance(less[name] as Tensor, whole[name] as Tensor)).toBeGreaterThan(0);
  const sizes = {
    vocab_size: 64,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
  };
  const bert = initTensorModel(
    { model_type: "bert", ...sizes },
    { task: "sequence-classification", labels: 2, seed: 1 },
  );
  const packed = await quantizeModel(bert, { kind: "nf4", blockSize: 16 });
  expect(packed.quantization?.left).toContainEqual({ path: "classifier", reason: "the output head" });
  const [before, after] = [await runModel(bert, ids), await runModel(packed, ids)];
  expect(maxAbsDiff(before.logits as Tensor, after.logits as Tensor)).toBeGreaterThan(0);
  expect(distance(after.logits as Tensor, before.logits as Tensor)).toBeLessThan(0.3);
});
