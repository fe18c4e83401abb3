import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { loadTokenizer, type Tokenizer, tokenizerFromJson } from "../models/tokenizer/index.js";
import {
  batches,
  chooseLengths,
  collate,
  type Dataset,
  loadDataset,
  packExamples,
  planBatches,
  type Row,
  splitDataset,
  type TokenizedExample,
  tokenizeExamples,
  trainBpe,
} from "./index.js";

const ASSETS = process.env.TUNESMITH_ASSETS ?? "../shared/assets";
const json = trainBpe(["the cat sat on the mat and the dog sat on the cat"], { vocabSize: 270 });
const tokenizer = await tokenizerFromJson(json, { eos_token: "<|endoftext|>" });
const eos = tokenizer.eosId as number;

const text = (content: string): Row => ({ kind: "text", text: content });
const trained = (example: TokenizedExample, by: Tokenizer = tokenizer) =>
  by.decode(example.ids.filter((_, index) => example.lossMask[index] === 1));

test("documents: blocks overlap by one token, each token is trained once", () => {
  const content = "the cat sat on the mat, twice: the cat sat on the mat";
  const all = [...tokenizer.encode(content), eos];
  const { examples, report } = tokenizeExamples([text(content)], tokenizer, { maxLength: 7 });
  expect(examples.every((example) => example.ids.length <= 7)).toBe(true);
  const predicted = examples.flatMap(({ ids, lossMask }) =>
    [...ids].filter((_, index) => lossMask[index] === 1),
  );
  expect(predicted).toEqual(all.slice(1));
  expect(report).toMatchObject({ truncated: 0, trainedTokens: all.length - 1, eosMissing: false });
  const bare = tokenizeExamples([text(content)], tokenizer, { maxLength: 100, appendEos: false });
  expect([...(bare.examples[0]?.ids ?? [])]).toEqual(all.slice(0, -1));
});

test("prompt and completion: only the completion and the end are trained", () => {
  const row: Row = { kind: "completion", prompt: "the cat", completion: " sat" };
  const { examples } = tokenizeExamples([row], tokenizer, { maxLength: 32 });
  expect(trained(examples[0] as TokenizedExample)).toBe(" sat<|endoftext|>");
  expect(tokenizer.decode(examples[0]?.ids ?? [])).toBe("the cat sat<|endoftext|>");
});

test("conversations: answers are trained", () => {
  const messages = ["Hi", "Hello", "Bye", "Ciao"].map((content, index) => ({
    role: index % 2 ? "assistant" : "user",
    content,
  }));
  const chatTemplate =
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  const row: Row = { kind: "chat", messages };
  const all = tokenizeExamples([row], tokenizer, { maxLength: 100, chatTemplate });
  expect(trained(all.examples[0] as TokenizedExample)).toBe("Hello<|endoftext|>Ciao<|endoftext|>");
  const last = tokenizeExamples([row], tokenizer, { maxLength: 100, chatTemplate, trainOn: "last" });
  expect(trained(last.examples[0] as TokenizedExample)).toBe("Ciao<|endoftext|>");
  expect(() => tokenizeExamples([row], tokenizer, { maxLength: 100 })).toThrow(/no chat template/);
});

const CHATML =
  "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

test.each(["the tokenizer's template", "a given template", "no template"])(
  "every answer of a conversation has a loss and nothing else, with %s, packed too",
  async (which) => {
    const own = which === "the tokenizer's template";
    const by = await tokenizerFromJson(json, {
      ...{ eos_token: "<|endoftext|>", ...(own ? { chat_template: CHATML } : {}) },
    });
    // Answers that repeat what stands elsewhere, two in a row, one after a tool, and a user's last word.
    const turns: [string, string][] = [
      ...([
        ["system", "cat"],
        ["user", "the cat"],
        ["assistant", "the cat"],
        ["assistant", "cat"],
      ] as const),
      ...([
        ["user", "cat"],
        ["assistant", ""],
        ["tool", "cat sat"],
        ["assistant", "sat"],
        ["user", "sat"],
      ] as const),
    ].map(([role, content]) => [role, content]);
    const rows: Row[] = [
      { kind: "chat", messages: turns.map(([role, content]) => ({ role, content })) },
      { kind: "chat", messages: turns.slice(0, 3).map(([role, content]) => ({ role, content })) },
    ];
    const options = { maxLength: 100, ...(which === "a given template" ? { chatTemplate: CHATML } : {}) };
    if (which === "no template") {
      expect(() => tokenizeExamples(rows, by, options)).toThrow(/no chat template/);
      return;
    }
    const { examples } = tokenizeExamples(rows, by, options);
    const end = "<|endoftext|>";
    const answers = [`the cat${end}cat${end}${end}sat${end}`, `the cat${end}`];
    expect(examples.map((example) => trained(example, by))).toEqual(answers);
    const rest = (example: TokenizedExample) =>
      by.decode(example.ids.filter((_, index) => example.lossMask[index] === 0));
    expect(rest(examples[0] as TokenizedExample)).toBe(
      `<system>cat${end}<user>the cat${end}<assistant><assistant><user>cat${end}<assistant><tool>cat sat${end}<assistant><user>sat${end}`,
    );
    const { labels, lossWeights } = collate(packExamples(examples, { length: 256 }), {
      length: 256,
      padId: 0,
    });
    const learnt = [...(labels.data as Int32Array)].filter((_, at) => lossWeights.data[at] === 1);
    expect(by.decode(Int32Array.from(learnt))).toBe(answers.join(""));
  },
);

test("long answers are cut and counted, prompts without room are dropped", () => {
  const rows: Row[] = [
    { kind: "completion", prompt: "x", completion: "yyyyyyyy" },
    { kind: "completion", prompt: "xxxxxxxxxx", completion: "y" },
  ];
  const { examples, report } = tokenizeExamples(rows, tokenizer, { maxLength: 5 });
  expect(examples).toHaveLength(1);
  expect(report).toMatchObject({
    truncated: 1,
    truncatedTokens: 5,
    dropped: [{ row: 2, reason: "the prompt alone fills 5 tokens" }],
  });
  expect(() => tokenizeExamples(rows.slice(1), tokenizer, { maxLength: 5 })).toThrow(/no example is left/);
  expect(() => tokenizeExamples(rows, tokenizer, { maxLength: 1 })).toThrow(/too small/);
});

test("a tokenizer without an end token is reported", async () => {
  const bare = await tokenizerFromJson(json);
  const { report } = tokenizeExamples([text("the cat")], bare, { maxLength: 8 });
  expect(report.eosMissing).toBe(true);
});

const dataset = (rows: Row[]): Dataset => ({
  name: "test",
  layout: "text",
  rows,
  report: { rows: rows.length, dropped: [], bytes: 0, capped: false },
});

test("split: by content, seeded, stable when rows are added; one document by its tail", () => {
  const rows = Array.from({ length: 200 }, (_, index) => text(`row ${index % 190}`));
  const { train, validation } = splitDataset(dataset(rows), { validation: 0.2, seed: 1 });
  expect(train.length + validation.length).toBe(200);
  expect(validation.length).toBeGreaterThan(20);
  expect(validation.length).toBeLessThan(60);
  const content = (row: Row) => JSON.stringify(row);
  const held = new Set(validation.map(content));
  expect(train.some((row) => held.has(content(row)))).toBe(false);
  const more = splitDataset(dataset([...rows, text("new")]), { validation: 0.2, seed: 1 });
  expect(more.validation.filter((row) => row.kind === "text" && row.text !== "new")).toEqual(validation);
  expect(splitDataset(dataset(rows), { validation: 0.2, seed: 2 }).validation).not.toEqual(validation);
  const few = splitDataset(dataset([text("a"), text("b")]), { validation: 0.01 });
  expect([few.train.length, few.validation.length]).toEqual([1, 1]);
  const tail = splitDataset(dataset([text("l1\nl2\nl3\nl4\n")]), { validation: 0.25 });
  expect(tail).toEqual({ train: [text("l1\nl2\nl3\n")], validation: [text("l4\n")] });
  expect(() => splitDataset(dataset([text("one line")]))).toThrow(/single line/);
  expect(() => splitDataset(dataset(rows), { validation: 1 })).toThrow(/not in \(0, 1\)/);
});

const example = (length: number, from = 1): TokenizedExample => ({
  ids: Int32Array.from({ length }, (_, index) => from + index),
  lossMask: Uint8Array.from({ length }, (_, index) => (index === 0 ? 0 : 1)),
});

test("packing: first-fit decreasing, sequential, none", () => {
  const examples = [3, 6, 2, 5, 4, 8].map((length) => example(length));
  const indices = (strategy: "ffd" | "sequential" | "none") =>
    packExamples(examples, { length: 8, strategy }).map((pack) => pack.indices);
  expect(indices("ffd")).toEqual([[5], [1, 2], [3, 0], [4]]);
  expect(indices("sequential")).toEqual([[0], [1, 2], [3], [4], [5]]);
  expect(indices("none")).toEqual([[0], [1], [2], [3], [4], [5]]);
  expect(packExamples(examples, { length: 8 }).map((pack) => pack.tokens)).toEqual([8, 8, 8, 4]);
  expect(() => packExamples(examples, { length: 7 })).toThrow(/example 5 has 8 tokens/);
});

test("collation: labels stay inside their example", () => {
  const masked = { ids: Int32Array.of(9, 8, 7), lossMask: Uint8Array.of(0, 0, 1) };
  const packs = packExamples([example(3, 10), masked], { length: 8, strategy: "sequential" });
  const batch = collate(packs, { batch: 2, length: 8, padId: 99 });
  const row = (tensor: { data: ArrayLike<unknown> }, index: number) =>
    Array.from(tensor.data).slice(8 * index, 8 * index + 8);
  expect(batch.inputIds.shape).toEqual([2, 8]);
  expect(row(batch.inputIds, 0)).toEqual([10, 11, 12, 9, 8, 7, 99, 99]);
  expect(row(batch.labels, 0)).toEqual([11, 12, -1, -1, 7, -1, -1, -1]);
  expect(row(batch.lossWeights, 0)).toEqual([1, 1, 0, 0, 1, 0, 0, 0]);
  expect(row(batch.positionIds, 0)).toEqual([0, 1, 2, 0, 1, 2, 0, 0]);
  expect(row(batch.segmentIds, 0)).toEqual([1, 1, 1, 2, 2, 2, 0, 0]);
  expect(row(batch.segmentIds, 1)).toEqual(new Array(8).fill(0));
  expect(batch).toMatchObject({ tokens: 6, targets: 3 });
  expect(() => collate(packs, { length: 4, padId: 0 })).toThrow(/do not fit/);
});

test("batches: every pack once per epoch, order by seed and epoch, resumable", () => {
  const examples = Array.from({ length: 37 }, (_, index) => example(2 + (index % 15), 100 * index));
  const packs = packExamples(examples, { length: 16, strategy: "none" });
  const options = { batchSize: 4, lengths: [8, 16], padId: 0, seed: 3, endEpoch: 2 };
  const all = [...batches(packs, options)];
  const perEpoch = planBatches(packs, options).length;
  expect(all).toHaveLength(2 * perEpoch);
  for (const epoch of [0, 1]) {
    const seen = all.filter((batch) => batch.state.epoch === epoch).flatMap((batch) => batch.packs);
    expect(seen.toSorted((a, b) => a - b)).toEqual([...packs.keys()]);
  }
  for (const batch of all) expect(batch.inputIds.shape).toEqual([4, batch.length]);
  expect(new Set(all.map((batch) => batch.length))).toEqual(new Set([8, 16]));
  const order = (list: typeof all) => list.map((batch) => batch.packs);
  expect(order(all.slice(0, perEpoch))).not.toEqual(order(all.slice(perEpoch)));
  for (const at of [0, 3, perEpoch - 1, perEpoch + 2]) {
    const state = JSON.parse(JSON.stringify(all[at]?.state)) as { epoch: number; step: number };
    const rest = [...batches(packs, { ...options, epoch: state.epoch, startStep: state.step })];
    expect(rest).toEqual(all.slice(at + 1));
  }
  const plain = planBatches(packs, { ...options, lengths: [16], shuffle: false }, 5);
  expect(plain.flatMap((batch) => batch.packs)).toEqual([...packs.keys()]);
  expect(() => [...batches(packs, { ...options, startStep: 999 })]).toThrow(/beyond epoch 0/);
  expect(() => planBatches(packs, { ...options, lengths: [16, 8] })).toThrow(/not possible/);
  expect(() => planBatches(packs, { ...options, lengths: [8] })).toThrow(/more than the greatest length/);
});

test("row lengths: few shapes, least padding", () => {
  const lengths = [3, 10, 12, 60, 64, 61];
  expect(chooseLengths(lengths, { maxShapes: 1, multiple: 8 })).toEqual([64]);
  expect(chooseLengths(lengths, { maxShapes: 2, multiple: 8 })).toEqual([16, 64]);
  expect(chooseLengths(lengths, { maxShapes: 9, multiple: 8 })).toEqual([8, 16, 64]);
});

const stories = `${ASSETS}/models/stories260K/tok512.bin`;
test.skipIf(!existsSync(stories))("real files through the whole path (needs the assets)", async () => {
  const llama = await loadTokenizer(stories);
  const alpaca = await loadDataset(`${ASSETS}/data/chat/alpaca_en_demo.json`);
  const { examples, report } = tokenizeExamples(alpaca.rows.slice(0, 50), llama, { maxLength: 512 });
  expect(report.trainedTokens).toBeGreaterThan(5000);
  const first = alpaca.rows[0];
  if (first?.kind !== "completion") throw new Error("alpaca rows are completions");
  expect(trained(examples[0] as TokenizedExample, llama).startsWith(first.completion.slice(0, 20))).toBe(
    true,
  );
  const packs = packExamples(examples, { length: 512 });
  const tokens = [...batches(packs, { batchSize: 4, lengths: [512], padId: 0 })].reduce(
    (sum, b) => sum + b.tokens,
    0,
  );
  expect(tokens).toBe(report.tokens);
});
