import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { initTensorModel, saveModel } from "../../src/models/index.js";
import { writeTinyModel } from "../support/tiny-model.js";
import { json, run } from "./run.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-tasks-"));
const WORDS =
  "[PAD] [UNK] [CLS] [SEP] [MASK] good bad fine poor movie book was the very a cat dog runs".split(" ");
const lines = (rows: readonly object[]) => rows.map((row) => JSON.stringify(row)).join("\n");

beforeAll(async () => {
  const sizes = { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2 };
  const config = { model_type: "bert", vocab_size: WORDS.length, ...sizes, max_position_embeddings: 32 };
  const bert = initTensorModel({ ...config, initializer_range: 0.1 }, { task: "masked-lm" });
  await saveModel(bert, join(folder, "bert"));
  writeFileSync(join(folder, "bert/vocab.txt"), WORDS.join("\n"));
  const reviews = ["movie", "book", "cat"].flatMap((thing) =>
    ["good", "bad", "fine", "poor"].map((word) => ({
      text: `the ${thing} was very ${word}`,
      label: word === "good" || word === "fine" ? "pos" : "neg",
    })),
  );
  writeFileSync(join(folder, "reviews.jsonl"), lines(reviews));
  writeFileSync(join(folder, "new.txt"), "the dog was good");
  await writeTinyModel(join(folder, "model"));
  const pairs = ["the cat", "the dog", "a bird", "the tree"].map((prompt) => ({
    prompt,
    chosen: " runs",
    rejected: " the the",
  }));
  writeFileSync(join(folder, "pairs.jsonl"), lines(pairs));
}, 60_000);

test("a classifier is trained with a new head, evaluated and used", async () => {
  const train = [
    "train",
    "--model",
    "bert",
    "--data",
    "reviews.jsonl",
    "--rank",
    "4",
    "--targets",
    "query,value,dense",
  ];
  const rest = [
    "--lr",
    "2e-2",
    "--steps",
    "60",
    "--batch-size",
    "6",
    "--validation-share",
    "0",
    "--out",
    "classes",
  ];
  await json([...train, ...rest], folder);
  expect(JSON.parse(readFileSync(join(folder, "classes/task.json"), "utf8"))).toMatchObject({
    task: "sequence-classification",
    labels: ["neg", "pos"],
  });
  const given = ["bert", "--adapter", "classes"];
  const found = await run(["eval", ...given, "--data", "reviews.jsonl", "--json"], folder);
  expect(JSON.parse(String(found.stdout.trim().split("\n").at(-1))).scores.accuracy).toBe(1);
  await json(["predict", ...given, "--data", "new.txt", "--out", "predictions.jsonl"], folder);
  const [first = ""] = readFileSync(join(folder, "predictions.jsonl"), "utf8").split("\n");
  expect(JSON.parse(first)).toMatchObject({ row: 1, label: "pos" });
  // The same classes once merged, as a folder and as ONNX.
  for (const command of ["merge", "export"]) {
    const written = await json([command, "--model", ...given, "--out", command], folder);
    expect(written.maxDiff).toBeLessThan(1e-4);
    await json(["predict", command, "--data", "new.txt", "--out", `${command}.jsonl`], folder);
    const [line = ""] = readFileSync(join(folder, `${command}.jsonl`), "utf8").split("\n");
    expect(JSON.parse(line)).toMatchObject({ row: 1, label: "pos" });
  }
}, 120_000);

test("pairs of answers are learnt by DPO, or by the objective that is named", async () => {
  const train = [
    "train",
    "--model",
    "model",
    "--data",
    "pairs.jsonl",
    "--length",
    "32",
    "--validation-share",
    "0",
  ];
  const rest = ["--steps", "4", "--batch-size", "2", "--lr", "1e-2"];
  const preferred = await run([...train, ...rest, "--out", "dpo", "--json"], folder);
  expect(JSON.parse(String(preferred.stdout.trim().split("\n").at(-1))).objective).toBe("dpo");
  const options = ["--objective", "simpo", "--objective-options", '{"gamma": 0.5}'];
  await json([...train, ...rest, ...options, "--out", "simpo"], folder);
  const wrong = await run([...train, ...rest, "--objective", "kto", "--out", "kto"], folder);
  expect(wrong.code).not.toBe(0);
  expect(wrong.stderr).toContain("preference row");
  const nobody = await run([...train, ...rest, "--objective", "distillation", "--out", "d"], folder);
  expect(nobody.stderr).toContain("--teacher");
}, 120_000);
