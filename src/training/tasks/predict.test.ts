import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { Row, Series } from "../../data/index.js";
import {
  initTensorModel,
  jsonFromVocabTxt,
  runModel,
  type TensorModel,
  tokenizerFromJson,
} from "../../models/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { forecast, predict } from "./index.js";

const VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad the cat berlin ##er runs".split(" ");
const OPTIONS = { batchSize: 2, session: { threads: 1 } };
const read = (path: string) =>
  JSON.parse(readFileSync(new URL(`../../../fixtures/${path}`, import.meta.url), "utf8"));

async function bert(task: TensorModel["task"], labels?: readonly string[]): Promise<TensorModel> {
  const sizes = { hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2 };
  const config = { model_type: "bert", vocab_size: VOCAB.length, ...sizes, initializer_range: 0.5 };
  const tokenizer = await tokenizerFromJson(jsonFromVocabTxt(VOCAB.join("\n")));
  return initTensorModel(config, { task, tokenizer, ...(labels ? { labels } : {}) });
}

const texts: Row[] = ["good cat", "the bad bad cat runs", "bad"].map((text) => ({ kind: "text", text }));
/** The model's own output for one text. */
async function alone(model: TensorModel, text: string, output: string): Promise<number[]> {
  const ids = (model.tokenizer as NonNullable<TensorModel["tokenizer"]>).encode(text);
  const found = await runModel(
    model,
    { input_ids: tensor("int64", [1, ids.length], [...ids]) },
    { threads: 1 },
  );
  return Array.from((found[output] as Tensor).data as Float32Array);
}

test("classes with probabilities, the same as of each text alone", async () => {
  const model = await bert("sequence-classification", ["no", "yes"]);
  const found = await predict(model, texts, OPTIONS);
  for (const [at, row] of texts.entries()) {
    const [a = 0, b = 0] = await alone(model, (row as { text: string }).text, "logits");
    const yes = 1 / (1 + Math.exp(a - b));
    const got = found[at] as { label: string; probabilities: Record<string, number> };
    expect(got.probabilities.yes).toBeCloseTo(yes, 5);
    expect(got.label).toBe(yes > 0.5 ? "yes" : "no");
  }
  const several = await predict(model, texts.slice(0, 1), { ...OPTIONS, multiLabel: true });
  const logits = await alone(model, "good cat", "logits");
  const labels = ["no", "yes"].filter((_, at) => (logits[at] as number) > 0);
  expect((several[0] as { labels: readonly string[] }).labels).toEqual(labels);
});

test("numbers, vectors and a tag for each word", async () => {
  const judge = await bert("regression", ["score"]);
  const [, second] = await predict(judge, texts, OPTIONS);
  const [value = 0] = await alone(judge, "the bad bad cat runs", "logits");
  expect((second as { value: number }).value).toBeCloseTo(value, 5);
  const encoder = await bert("embedding");
  const [vector] = await predict(encoder, texts, OPTIONS);
  const expected = await alone(encoder, "good cat", "sentence_embedding");
  (vector as { embedding: readonly number[] }).embedding.forEach((x, at) => {
    expect(x).toBeCloseTo(expected[at] as number, 5);
  });
  const tagger = await bert("token-classification", ["O", "B-LOC", "I-LOC"]);
  const [tagged] = await predict(tagger, [{ kind: "text", text: "the Berliner runs" }], OPTIONS);
  const logits = await alone(tagger, "the Berliner runs", "logits");
  // [CLS] the berlin ##er runs [SEP]: words begin at 1, 2 and 4.
  const tags = [1, 2, 4].map((place) => {
    const scores = logits.slice(3 * place, 3 * place + 3);
    return ["O", "B-LOC", "I-LOC"][scores.indexOf(Math.max(...scores))];
  });
  expect((tagged as { tags: readonly string[] }).tags).toEqual(tags);
});

test("a series is continued in its own units", async () => {
  const config = { ...read("vision/tinytimemixer/config.json"), num_input_channels: 1 };
  const model = initTensorModel(config, { task: "forecasting" });
  const of = (factor: number): Series => ({
    channels: ["load"],
    times: [],
    values: tensor(
      "float32",
      [40, 1],
      Float32Array.from({ length: 40 }, (_, at) => factor * (100 + Math.sin(at))),
    ),
  });
  const [one, ten] = [
    await forecast(model, of(1), undefined, OPTIONS),
    await forecast(model, of(10), undefined, OPTIONS),
  ];
  expect(one.values.length).toBe(5);
  for (const [at, [value = 0]] of one.values.entries())
    expect(ten.values[at]?.[0]).toBeCloseTo(10 * value, 1);
});

test("rows that a task does not read are refused", async () => {
  const row: Row = { kind: "tags", tokens: ["a"], tags: ["O"] };
  await expect(predict(await bert("sequence-classification"), [row], OPTIONS)).rejects.toMatchObject({
    code: "data-invalid",
  });
  await expect(predict(await bert("masked-lm"), texts, OPTIONS)).rejects.toMatchObject({
    code: "task-mismatch",
  });
});
