import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { TunesmithError } from "../errors/index.js";
import {
  constant,
  constantsOf,
  input,
  loadOnnx,
  makeGraph,
  makeNode,
  ops,
  recompute,
  rewriteValues,
  saveOnnx,
  substitute,
  type Value,
} from "../graph/index.js";
import { createSession } from "../runtime/index.js";
import {
  isTensorRef,
  maxAbsDiff,
  openSafetensors,
  readTensor,
  type Tensor,
  tensor,
} from "../tensor/index.js";
import { exportOnnx } from "./export/index.js";
import { createDecoder } from "./generate/decoder.js";
import { generate } from "./generate/index.js";
import { loadFolder, loadModel } from "./load.js";
import { loadOnnxLm } from "./onnx-lm.js";
import { logitsOf, probeIds, probeOutputs, staticInputs } from "./probe.js";
import { sitesOf } from "./sites.js";
import type { CausalLm } from "./types.js";

const FIXTURES = new URL("../../fixtures/models/", import.meta.url).pathname;
const names = readdirSync(FIXTURES).filter((name) => existsSync(`${FIXTURES}${name}/config.json`));
const ASSET = join(process.env.TUNESMITH_ASSETS ?? "../shared/assets", "models/tiny-random-gpt2/past.onnx");

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "onnx-lm-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const numbers = (t: Tensor) => Array.from(t.data as ArrayLike<bigint>, Number);
const paths = (model: CausalLm) => sitesOf(probeOutputs(model)).map(({ path, kind }) => `${path} ${kind}`);

describe.each(names)("%s, exported and loaded", (name) => {
  test("has the same logits, modules and greedy text, with a cache and without", async () => {
    const model = await loadFolder(`${FIXTURES}${name}`);
    const expected = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
    const prompt = numbers(await expected.read("generate.prompt"));
    const output = numbers(await expected.read("generate.output"));
    const ids = probeIds(model.sizes.vocabSize, 9);
    const logits = await logitsOf(model, ids);
    for (const cache of [false, true]) {
      const { path } = await exportOnnx(model, join(folder, `${name}-${cache}`), { cache });
      const loaded = await loadModel(path);
      expect(maxAbsDiff(await logitsOf(loaded, ids), logits)).toBeLessThan(1e-5);
      expect(paths(loaded)).toEqual(paths(model));
      expect(loaded.sizes).toMatchObject({
        vocabSize: model.sizes.vocabSize,
        hiddenSize: model.sizes.hiddenSize,
      });
      if (cache)
        expect(loaded.sizes).toMatchObject({ layers: model.sizes.layers, kvHeads: model.sizes.kvHeads });
      expect(loaded.packable).toBe(!cache);
      expect((await generate(loaded, prompt, { maxTokens: output.length })).ids).toEqual(output);
      // What enters each block, what leaves the last, and the middle of each.
      expect(probeOutputs(loaded).boundaries.length).toBeGreaterThanOrEqual(model.sizes.layers + 1);
    }
  });
});

async function lossAndGradient(
  model: CausalLm,
  name: string,
  expected: Awaited<ReturnType<typeof openSafetensors>>,
) {
  const ids = await expected.read("packed.input_ids");
  const length = ids.shape[1] as number;
  const inputs = staticInputs(1, length);
  const weight = model.weights.get(name);
  if (!weight) throw new Error(`${name} is missing`);
  const trained = input("trained", "float32", weight.shape);
  const logits = model.build(inputs).logits;
  const get = rewriteValues([logits], { replace: new Map([[weight, trained]]) });
  const labels = input("labels", "int64", [length]);
  const known = ops.cast(ops.greaterOrEqual(labels, 0), "float32");
  const picked = ops.gatherElements(ops.logSoftmax(get(logits)), ops.unsqueeze(ops.max(labels, 0), 1), 1);
  const total = ops.reduceSum(ops.mul(ops.squeeze(picked, 1), known), undefined, false);
  const loss = ops.neg(ops.div(total, ops.reduceSum(known, undefined, false)));
  const [gradient] = gradients(loss, [trained]);
  const session = await createSession(
    makeGraph(
      "train",
      [inputs.ids, inputs.positions, inputs.segments, labels, trained].filter(
        (value) => value.name !== "positions" || used(loss, value),
      ),
      [
        ["loss", loss],
        ["gradient", gradient as Value],
      ],
    ),
  );
  const segments = numbers(await expected.read("packed.segment_ids")).map((segment) => segment + 1);
  const tokens = numbers(ids);
  const next = tokens.map((_, at) => (segments[at + 1] === segments[at] ? (tokens[at + 1] as number) : -1));
  const { source } = weight;
  if (source.kind !== "constant") throw new Error("not a constant");
  const value =
    "source" in source.data
      ? await source.data.source.read(source.data.offset, source.data.byteLength)
      : undefined;
  const data = value ? new Float32Array(value.slice().buffer) : (source.data as Tensor).data;
  const feeds: Record<string, Tensor> = {
    ids,
    positions: await expected.read("packed.position_ids"),
    segments: tensor("int32", [1, length], segments),
    labels: tensor("int64", [length], next),
    trained: { dtype: "float32", shape: weight.shape as number[], data } as Tensor,
  };
  const results = await session.run(
    Object.fromEntries(Object.entries(feeds).filter(([key]) => session.inputNames.includes(key))),
  );
  await session.release();
  return results;
}

const used = (value: Value, wanted: Value) => {
  const stack = [value];
  const seen = new Set<Value>();
  for (let at = stack.pop(); at; at = stack.pop()) {
    if (at === wanted) return true;
    if (seen.has(at) || at.source.kind !== "node") continue;
    seen.add(at);
    stack.push(...at.source.node.inputs.filter((item): item is Value => item !== undefined));
  }
  return false;
};

test("packed documents stay apart in our own export, and gradients equal the original's", async () => {
  const model = await loadFolder(`${FIXTURES}llama`);
  const expected = await openSafetensors(`${FIXTURES}llama/expected.safetensors`);
  const { path } = await exportOnnx(model, join(folder, "packed"));
  const loaded = await loadOnnxLm(path);
  const name = "model.layers.0.self_attn.q_proj.weight";
  const [ours, theirs] = [
    await lossAndGradient(model, name, expected),
    await lossAndGradient(loaded, name, expected),
  ];
  expect(
    maxAbsDiff(theirs.loss as Tensor, { ...(await expected.read("packed.loss")), shape: [] }),
  ).toBeLessThan(1e-5);
  expect(maxAbsDiff(theirs.gradient as Tensor, ours.gradient as Tensor)).toBeLessThan(1e-6);
});

test("a tied head stored as a transpose is one weight at two sites", async () => {
  const table = tensor(
    "float32",
    [7, 4],
    Float32Array.from({ length: 28 }, (_, at) => Math.sin(at)),
  );
  const ids = input("input_ids", "int64", ["batch", "length"]);
  const { constant, op } = await import("../graph/index.js");
  const weight = constant(table, "wte.weight");
  const x = ops.gather(weight, ids);
  const logits = op(
    "MatMul",
    [ops.relu(x), ops.transpose(weight, [1, 0])],
    {},
    { name: "/lm_head/MatMul", scope: "lm_head" },
  );
  const path = join(folder, "tied.onnx");
  await saveOnnx(makeGraph("tied", [ids], [["logits", logits]]), path);
  const model = await loadOnnxLm(path);
  expect([...model.weights.keys()]).toEqual(["wte.weight"]);
  const sites = sitesOf(probeOutputs(model));
  expect(sites.map(({ kind, isHead, weightName }) => [kind, isHead, weightName])).toEqual([
    ["embedding", false, "wte.weight"],
    ["linear", true, "wte.weight"],
  ]);
  expect((await logitsOf(model, [3, 1])).shape).toEqual([2, 7]);
  expect((await generate(model, [3], { maxTokens: 2 })).ids.length).toBe(2);
});

test("files that are no causal language models say what does not fit", async () => {
  const x = input("x", "float32", ["batch", 3]);
  const path = join(folder, "other.onnx");
  await saveOnnx(makeGraph("other", [x], [["y", ops.relu(x)]]), path);
  const error = await loadModel(path).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(TunesmithError);
  expect(error).toMatchObject({ code: "format-unsupported", message: expect.stringContaining("input_ids") });
});

const present = existsSync(ASSET);
describe.skipIf(!present)(
  `a fused GPT-2 of another exporter${present ? "" : ` (skipped: ${ASSET} is absent)`}`,
  () => {
    const ids = [5, 900, 17, 44, 3, 512];

    test("logits and cached steps equal ONNX Runtime's on the file itself", async () => {
      const model = await loadModel(ASSET);
      const session = await ort.InferenceSession.create(ASSET, { logSeverityLevel: 3 });
      const int32 = (values: number[]) =>
        new ort.Tensor("int32", Int32Array.from(values), [1, values.length]);
      const past = Object.fromEntries(
        [0, 1, 2, 3, 4].map((layer) => [
          `past_${layer}`,
          new ort.Tensor("float32", new Float32Array(0), [2, 1, 4, 0, 8]),
        ]),
      );
      const feeds = {
        input_ids: int32(ids),
        position_ids: int32(ids.map((_, at) => at)),
        attention_mask: int32(ids.map(() => 1)),
        ...past,
      };
      const { logits } = await session.run(feeds);
      const reference = tensor("float32", [ids.length, 1000], logits?.data as Float32Array);
      expect(maxAbsDiff(await logitsOf(model, ids), reference)).toBeLessThan(1e-5);
      const decoder = await createDecoder(model);
      const sequence = decoder.start([ids.slice(0, 3)]);
      let last = await sequence.read();
      for (const id of ids.slice(3)) last = await sequence.step([id]);
      const row = (reference.data as Float32Array).subarray(-1000);
      expect(
        maxAbsDiff(
          tensor("float32", [1000], last[0] as Float32Array),
          tensor("float32", [1000], row.slice()),
        ),
      ).toBeLessThan(1e-5);
      await decoder.close();
      await session.release();
    });

    test("its modules are found inside the fused operators", async () => {
      const model = await loadModel(ASSET);
      expect(model.sizes).toMatchObject({
        vocabSize: 1000,
        hiddenSize: 32,
        layers: 5,
        kvHeads: 4,
        headDim: 8,
        maxPositions: 512,
      });
      expect(model.defaultTargets).toEqual(["c_attn"]);
      expect((await loadModel(ASSET, { task: "auto" })).task).toBe("causal-lm");
      expect(model.packable).toBe(false);
      const found = paths(model);
      for (const path of [
        "transformer.h.3.attn.c_attn linear",
        "transformer.h.4.mlp.c_fc linear",
        "lm_head linear",
      ])
        expect(found).toContain(path);
      expect(probeOutputs(model).boundaries.length).toBeGreaterThanOrEqual(6);
    });
  },
);

test("a merged decoder loads as the model without a cache", async () => {
  const model = await loadFolder(`${FIXTURES}${names[0]}`);
  const { path } = await exportOnnx(model, join(folder, "cached"), { cache: true });
  const { graph, close } = await loadOnnx(path);
  const flag = input("use_cache_branch", "bool", [1]);
  const past = graph.inputs.filter(({ name }) => name?.startsWith("past"));
  const outputs = [...graph.outputs.values()];
  const empty = new Map(
    past.map((value) => {
      const shape = value.shape.map((dim, axis) => (axis === 2 ? 0 : dim));
      return [value, ops.full(shape, 0, value.dtype, [value])] as const;
    }),
  );
  const captures = [...graph.inputs, ...constantsOf(graph)];
  const branch = (values: readonly Value[]) => ({
    g: {
      ...makeGraph(
        "branch",
        [],
        values.map((value, at) => [`o${at}`, value] as const),
      ),
      captures,
    },
  });
  const first = recompute(outputs, empty);
  const chosen = makeNode(
    "If",
    [flag],
    { then_branch: branch(outputs), else_branch: branch(first) },
    {
      outputs: outputs.length,
    },
  ).outputs;
  const outputNames = [...graph.outputs.keys()];
  const merged = makeGraph(
    "merged",
    [...graph.inputs, flag],
    outputNames.map((name, at) => [name, chosen[at] as Value] as const),
  );
  const file = join(folder, "decoder_model_merged.onnx");
  await saveOnnx(merged, file);
  await close();
  const loaded = await loadModel(file);
  const ids = probeIds(model.sizes.vocabSize, 7);
  expect(maxAbsDiff(await logitsOf(loaded, ids), await logitsOf(model, ids))).toBeLessThan(1e-5);
  expect(sitesOf(probeOutputs(loaded)).length).toBe(sitesOf(probeOutputs(model)).length);
});

test("a file in half precision is trained in float32", async () => {
  const model = await loadFolder(`${FIXTURES}${names[0]}`);
  const { path } = await exportOnnx(model, join(folder, "single"));
  const { graph, close } = await loadOnnx(path);
  const isWeight = (value: Value) => value.dtype === "float32" && value.shape.length > 1;
  const replace = new Map<Value, Value>();
  for (const value of constantsOf(graph).filter(isWeight)) {
    if (value.source.kind !== "constant") continue;
    const { data } = value.source;
    const { data: floats } = isTensorRef(data) ? await readTensor(data) : data;
    const half = constant(
      tensor("float16", value.shape as number[], Array.from(floats as Float32Array)),
      value.name,
    );
    replace.set(value, ops.cast(half, "float32"));
  }
  expect(replace.size).toBeGreaterThan(4);
  const file = join(folder, "model_fp16.onnx");
  await saveOnnx(substitute(graph, replace), file);
  await close();
  const loaded = await loadModel(file);
  expect(sitesOf(probeOutputs(loaded)).map(({ path: at }) => at)).toEqual(
    sitesOf(probeOutputs(model)).map(({ path: at }) => at),
  );
  const ids = probeIds(model.sizes.vocabSize, 7);
  expect(maxAbsDiff(await logitsOf(loaded, ids), await logitsOf(model, ids))).toBeLessThan(5e-3);
});
