import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Row } from "../../data/index.js";
import { initModel, initTensorModel, saveModel, sequenceHead } from "../../models/index.js";
import { createUi } from "../ui.js";
import { freshModules, newLabels, openWithHead, taskOfRun } from "./task-model.js";

const SIZES = {
  vocab_size: 20,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 1,
  num_attention_heads: 2,
};
const bert = (task: "masked-lm" | "sequence-classification" | "embedding", labels?: readonly string[]) =>
  initTensorModel({ model_type: "bert", ...SIZES }, { task, ...(labels ? { labels } : {}) });
const rowsOf = (...labels: (string | number)[]): Row[] =>
  labels.map((label) => ({ kind: "classification", text: "a", label }));

test("the task is what is asked for, the model's own, or that of the rows", () => {
  expect(taskOfRun("masked-lm", "classification", "embedding")).toBe("embedding");
  expect(taskOfRun("masked-lm", "text", undefined)).toBe("masked-lm");
  expect(taskOfRun("masked-lm", "classification", undefined)).toBe("sequence-classification");
  expect(taskOfRun("regression", "classification", undefined)).toBe("regression");
  expect(taskOfRun("masked-lm", "preference", undefined)).toBe("masked-lm");
});

test("a head is new where the rows have other classes", () => {
  const named = bert("sequence-classification", ["bad", "good"]);
  expect(newLabels(named, rowsOf("good", "bad"), false)).toBeUndefined();
  expect(newLabels(named, rowsOf("good", "fair"), false)).toEqual(["fair", "good"]);
  expect(newLabels(named, rowsOf("bad, fair", "good"), true)).toEqual(["bad", "fair", "good"]);
  const unnamed = bert("sequence-classification");
  expect(newLabels(unnamed, rowsOf(0, 1), false)).toBeUndefined();
  expect(newLabels(unnamed, rowsOf(0, 1, 2), false)).toEqual(["0", "1", "2"]);
  expect(newLabels(bert("masked-lm"), rowsOf("a"), false)).toBeUndefined();
});

test("what the file does not have is trained whole", () => {
  const words = bert("masked-lm");
  expect(freshModules(words, bert("sequence-classification", ["a", "b"]))).toEqual([
    "bert.pooler.dense",
    "classifier",
  ]);
  const two = bert("sequence-classification", ["a", "b"]);
  expect(freshModules(two, bert("sequence-classification", ["a", "b", "c"]))).toEqual(["classifier"]);
  // An encoder by itself has the same weights under shorter names.
  expect(freshModules(words, bert("embedding"))).toEqual([]);
  const lm = initModel({ model_type: "llama", ...SIZES });
  expect(freshModules(lm, sequenceHead(lm, { labels: 3 }))).toEqual(["score"]);
});

test("a fresh head on a quantised base stays floats", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-head-"));
  const sizes = { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2 };
  const config = { model_type: "bert", vocab_size: 20, ...sizes, max_position_embeddings: 16 };
  await saveModel(initTensorModel(config, { task: "masked-lm" }), folder);
  const ui = createUi({ json: true, progress: () => ({ update: () => {}, stop: () => {} }) });
  const wanted = { task: "sequence-classification", labels: ["a", "b"], quantize: "int8" } as const;
  const model = await openWithHead(folder, wanted, ui, new AbortController().signal);
  const kept = [...(model.quantization?.sites.keys() ?? [])];
  expect(kept).toContain("bert.encoder.layer.0.attention.self.query");
  expect(kept).not.toContain("bert.pooler.dense");
});
