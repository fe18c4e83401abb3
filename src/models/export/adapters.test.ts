import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { afterAll, expect, test } from "vitest";
import { adapt, lora } from "../../methods/index.js";
import { randomise } from "../../methods/testing/fixtures.js";
import { loadAll, maxAbsDiff, openOnnxAdapter, type Tensor } from "../../tensor/index.js";
import { type CausalLm, exportOnnx, loadFolder, logitsOf, probeIds, saveOnnxAdapter } from "../index.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-adapter-inputs-"));
afterAll(() => rmSync(folder, { recursive: true }));

const base = () => loadFolder(new URL("../../../fixtures/models/llama", import.meta.url).pathname);

const feedsOf = (ids: readonly number[]): Record<string, ort.Tensor> => {
  const long = (values: readonly number[]) =>
    new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
  return {
    input_ids: long(ids),
    attention_mask: long(ids.map(() => 1)),
    position_ids: long([...ids.keys()]),
  };
};

/** Tensors of an adapter file as ONNX Runtime's feeds. */
async function adapterFeeds(path: string): Promise<Record<string, ort.Tensor>> {
  const file = await openOnnxAdapter(path);
  const tensors = await loadAll(file);
  await file.close();
  return Object.fromEntries(
    [...tensors].map(([name, { data, shape }]) => [
      name,
      new ort.Tensor("float32", (data as Float32Array).slice(), [...shape]),
    ]),
  );
}

async function gap(session: ort.InferenceSession, feeds: Record<string, ort.Tensor>, model: CausalLm) {
  const ids = probeIds(model.sizes.vocabSize, 6);
  const { logits } = await session.run({ ...feedsOf(ids), ...feeds });
  const expected = await logitsOf(model, ids);
  const got: Tensor = { dtype: "float32", shape: expected.shape, data: logits?.data as Float32Array };
  return maxAbsDiff(got, expected);
}

test.each([
  ["lora", lora({ rank: 3, targets: "all-linear" })],
  ["dora", lora({ rank: 2, dora: true, targets: ["q_proj", "down_proj"] })],
] as const)("%s: one file runs any adapter of its kind that is fed to it", async (name, method) => {
  const model = await base();
  const [first, second] = [
    randomise(await adapt(model, method, { name: "first" })),
    randomise(await adapt(model, method, { name: "second", seed: 7 }), 11),
  ];
  const out = join(folder, name);
  const { path, files } = await exportOnnx(first, out, { adapters: "inputs" });
  expect(files).toContain(join(out, "model.onnx_adapter"));
  await saveOnnxAdapter(second, join(out, "second.onnx_adapter"));
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3 });
  const tensors = await adapterFeeds(join(out, "model.onnx_adapter"));
  const others = await adapterFeeds(join(out, "second.onnx_adapter"));
  expect(session.inputNames.filter((input) => input in tensors).sort()).toEqual(Object.keys(tensors).sort());
  expect(Object.keys(others).sort()).toEqual(Object.keys(tensors).sort());
  expect(await gap(session, tensors, first)).toBeLessThan(1e-4);
  expect(await gap(session, others, second)).toBeLessThan(1e-4);
  expect(await gap(session, others, first)).toBeGreaterThan(1e-3);
  await session.release();
});

test("optional weights hold what the adapter held, and need not be fed", async () => {
  const adapted = randomise(await adapt(await base(), lora({ rank: 3, targets: "all-linear" })));
  const { path } = await exportOnnx(adapted, join(folder, "optional"), { adapters: "optional" });
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3 });
  expect(session.inputNames).toEqual(["input_ids", "attention_mask", "position_ids"]);
  expect(await gap(session, {}, adapted)).toBeLessThan(1e-4);
  await session.release();
});

test("a model without adapters has no adapter file", async () => {
  await expect(saveOnnxAdapter(await base(), join(folder, "none.onnx_adapter"))).rejects.toMatchObject({
    code: "adapter-invalid",
  });
});
