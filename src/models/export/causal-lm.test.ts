import { existsSync, mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadOnnx, makeNode, ops, saveOnnx, substitute, type Value } from "../../graph/index.js";
import { adapt, lora } from "../../methods/index.js";
import { createSession } from "../../runtime/index.js";
import { rng } from "../../runtime/random/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../../tensor/index.js";
import {
  type CausalLm,
  exportGraph,
  exportOnnx,
  initModel,
  loadFolder,
  loadModel,
  logitsOf,
} from "../index.js";

const fixture = (name: string) =>
  loadFolder(new URL(`../../../fixtures/models/${name}`, import.meta.url).pathname);
const NAMES = ["gpt2", "llama", "gemma2", "gemma3", "qwen3"];
const row = (length: number, seed: number) =>
  Array.from({ length }, (_, at) => (7 * at + 13 * seed + 3) % 60);
const long = (rows: readonly (readonly number[])[]): Tensor =>
  tensor("int64", [rows.length, rows[0]?.length ?? 0], rows.flat());
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at);

/** Logits `[count, vocab]` of one row of a batch, from position `from` on. */
function part(logits: Tensor, batch: number, from: number, count: number): Tensor {
  const [, length, vocab] = logits.shape as [number, number, number];
  const start = (batch * length + from) * vocab;
  const data = (logits.data as Float32Array).subarray(start, start + count * vocab);
  return { dtype: "float32", shape: [count, vocab], data };
}

test.each(NAMES)("%s: one file serves any batch; padding changes nothing", async (name) => {
  const model = await fixture(name);
  const session = await createSession(exportGraph(model));
  const [a, b] = [row(9, 1), row(6, 2)];
  const pad = [0, 0, 0];
  const { logits } = await session.run({
    input_ids: long([a, [...pad, ...b]]),
    attention_mask: long([a.map(() => 1), [...pad, ...b.map(() => 1)]]),
    position_ids: long([range(0, 9), [...pad, ...range(0, 6)]]),
  });
  expect(logits?.shape).toEqual([2, 9, model.sizes.vocabSize]);
  expect(maxAbsDiff(part(logits as Tensor, 0, 0, 9), await logitsOf(model, a))).toBeLessThan(1e-4);
  expect(maxAbsDiff(part(logits as Tensor, 1, 3, 6), await logitsOf(model, b))).toBeLessThan(1e-4);
  await session.release();
});

const emptyCache = (model: CausalLm, batch: number): Record<string, Tensor> => {
  const { kvHeads, headDim, layers } = model.sizes;
  const none = tensor("float32", [batch, kvHeads, 0, headDim], new Float32Array(0));
  const names = range(0, layers).flatMap((layer) =>
    ["key", "value"].map((kind) => `past_key_values.${layer}.${kind}`),
  );
  return Object.fromEntries(names.map((entry) => [entry, none]));
};

test.each(NAMES)("%s: with a cache, prompt and steps give the logits of the whole row", async (name) => {
  const model = await fixture(name);
  const session = await createSession(exportGraph(model, { cache: true }));
  const [a, b] = [row(9, 1), row(6, 2)];
  const rows = [a, [0, 0, 0, ...b]];
  const masks = [a.map(() => 1), [0, 0, 0, ...b.map(() => 1)]];
  const places = [range(0, 9), [0, 0, 0, ...range(0, 6)]];
  let cache = emptyCache(model, 2);
  const pieces: Tensor[] = [];
  for (const [from, to] of [
    [0, 5],
    [5, 8],
    [8, 9],
  ] as const) {
    const cut = (all: readonly (readonly number[])[]) => long(all.map((each) => each.slice(from, to)));
    const attention_mask = long(masks.map((mask) => mask.slice(0, to)));
    const results = await session.run({
      input_ids: cut(rows),
      position_ids: cut(places),
      attention_mask,
      ...cache,
    });
    pieces.push(results.logits as Tensor);
    const present = Object.entries(results).filter(([key]) => key.startsWith("present."));
    cache = Object.fromEntries(
      present.map(([key, value]) => [key.replace("present", "past_key_values"), value]),
    );
  }
  const whole = [await logitsOf(model, a), await logitsOf(model, b)] as const;
  const vocab = model.sizes.vocabSize;
  const tail = (logits: Tensor, count: number): Tensor => {
    const data = (logits.data as Float32Array).subarray(logits.data.length - count * vocab);
    return { dtype: "float32", shape: [count, vocab], data };
  };
  const [, middle, last] = pieces as [Tensor, Tensor, Tensor];
  for (const batch of [0, 1] as const) {
    expect(maxAbsDiff(part(last, batch, 0, 1), tail(whole[batch], 1))).toBeLessThan(1e-4);
    const before = (tail(whole[batch], 4).data as Float32Array).subarray(0, 3 * vocab);
    const wanted: Tensor = { dtype: "float32", shape: [3, vocab], data: before };
    expect(maxAbsDiff(part(middle, batch, 0, 3), wanted)).toBeLessThan(1e-4);
  }
  await session.release();
});

test("an adapter is exported as it is now", async () => {
  const model = await adapt(await fixture("llama"), lora({ rank: 4, targets: "all-linear" }));
  const random = rng(5);
  for (const { trainable, tensor: own } of model.parameters.values())
    if (trainable) random.fillNormal(own.data as Float32Array, 0, 0.2);
  const ids = row(8, 3);
  const wanted = await logitsOf(model, ids);
  const session = await createSession(exportGraph(model));
  for (const { tensor: own } of model.parameters.values()) (own.data as Float32Array).fill(0);
  const feeds = {
    input_ids: long([ids]),
    attention_mask: long([ids.map(() => 1)]),
    position_ids: long([range(0, 8)]),
  };
  const { logits } = await session.run(feeds);
  expect(maxAbsDiff(part(logits as Tensor, 0, 0, 8), wanted)).toBeLessThan(1e-4);
  await session.release();
});

test("files lie where they are looked for", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-export-"));
  const model = initModel({
    model_type: "llama",
    vocab_size: 64,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  });
  const { path, files } = await exportOnnx(model, folder, { cache: true, external: "always" });
  expect(path).toBe(join(folder, "onnx", "model.onnx"));
  expect(readdirSync(join(folder, "onnx")).sort()).toEqual(["model.onnx", "model.onnx_data"]);
  expect(files.every((file) => existsSync(file))).toBe(true);
  expect(files).toContain(join(folder, "config.json"));
});

/** The file without an input for positions: it counts columns, as files with GroupQueryAttention do. */
async function countingFile(model: CausalLm, folder: string): Promise<string> {
  const { path } = await exportOnnx(model, join(folder, "own"), { cache: true });
  const { graph, close } = await loadOnnx(path);
  const named = new Map(graph.inputs.map((value) => [value.name, value] as const));
  const [ids, mask, positions] = ["input_ids", "attention_mask", "position_ids"].map((name) =>
    named.get(name),
  ) as [Value, Value, Value];
  const count = ops.sub(ops.cumSum(mask, 1), ops.scalar(1, "int64"));
  const [length] = makeNode("Shape", [ids], { start: { i: 1 }, end: { i: 2 } }).outputs as [Value];
  const end = ops.ints([2 ** 31 - 1]);
  const [last] = makeNode("Slice", [count, ops.neg(length), end, ops.ints([1])]).outputs as [Value];
  const inputs = graph.inputs.filter((value) => value !== positions);
  const replace = new Map([[positions, ops.reshape(last, ids.shape, [ids])]]);
  const file = join(folder, "counting.onnx");
  await saveOnnx(substitute(graph, replace, inputs), file);
  await close();
  return file;
}

test("a file that counts columns itself is exported with its cache", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-counting-"));
  const model = await fixture("llama");
  const counting = await loadModel(await countingFile(model, folder));
  const session = await createSession(exportGraph(counting, { cache: true }));
  const ids = row(6, 4);
  let cache = emptyCache(model, 1);
  let last: Tensor | undefined;
  for (const [from, to] of [
    [0, 4],
    [4, 6],
  ] as const) {
    const { logits, ...present } = await session.run({
      input_ids: long([ids.slice(from, to)]),
      position_ids: long([range(from, to)]),
      attention_mask: long([range(0, to).map(() => 1)]),
      ...cache,
    });
    last = logits;
    cache = Object.fromEntries(
      Object.entries(present).map(([key, value]) => [key.replace("present", "past_key_values"), value]),
    );
  }
  const vocab = model.sizes.vocabSize;
  const whole = (await logitsOf(model, ids)).data as Float32Array;
  const wanted: Tensor = { dtype: "float32", shape: [2, vocab], data: whole.slice(4 * vocab) };
  expect(maxAbsDiff(part(last as Tensor, 0, 0, 2), wanted)).toBeLessThan(1e-4);
  await session.release();
});

test("a file without a cache cannot be exported with one", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-uncached-"));
  const { path } = await exportOnnx(await fixture("llama"), folder);
  const plain = await loadModel(path);
  expect(() => exportGraph(plain, { cache: true })).toThrow(/without a key\/value cache/);
});
