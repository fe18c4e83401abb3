import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { json, run } from "./run.js";

const MODEL = join(fileURLToPath(new URL("../../", import.meta.url)), "assets/default-model");
const folder = mkdtempSync(join(tmpdir(), "tunesmith-teacher-"));
const rows = ["one and two", "two and three", "three and four", "four and five"];
writeFileSync(join(folder, "rows.jsonl"), rows.map((text) => `${JSON.stringify({ text })}\n`).join(""));

const TRAIN = [
  "train",
  "--model",
  MODEL,
  "--data",
  "rows.jsonl",
  "--steps",
  "2",
  "--length",
  "32",
  "--threads",
  "1",
];
const args = [...TRAIN, "--no-track", "--validation-share", "0.3"];
const distil = [...args, "--objective", "distillation", "--teacher-logits", "teacher.safetensors"];

test("a teacher's logits are written once, and teach without it", async () => {
  const first = await json([...distil, "--teacher", MODEL, "--teacher-top", "8", "--out", "a"], folder);
  expect(existsSync(join(folder, "teacher.safetensors"))).toBe(true);
  const second = await json([...distil, "--out", "b"], folder);
  expect(second.lossAfter).toBe(first.lossAfter);
  expect(second.lossAfter).toBeGreaterThan(0);
}, 60_000);

test.each<[string[], RegExp]>([
  [[...args, "--objective", "sft", "--teacher", MODEL], /--teacher does nothing/],
  [[...args, "--objective", "distillation"], /needs --teacher/],
  [
    [...args, "--objective", "distillation", "--teacher", MODEL, "--teacher-top", "3"],
    /without --teacher-logits/,
  ],
  [[...args, "--task-options", '{"labelSmoothing": 0.1}'], /--task-options do nothing/],
  [[...args, "--train-on", "last"], /--train-on last does nothing/],
  [[...args, "--stop-on", "perplexity"], /--stop-on does nothing/],
  [[...args, "--schedule-options", '{"minFactor": 0.1}'], /linear has no setting 'minFactor'/],
])(
  "what would do nothing is refused: %#",
  async (given, words) => {
    const { code, stderr } = await run([...given, "--out", "c"], folder);
    expect(stderr).toMatch(words);
    expect(code).toBe(2);
  },
  30_000,
);
