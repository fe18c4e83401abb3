import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { json, run } from "./run.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const MODEL = join(ROOT, "assets/default-model");
const folder = mkdtempSync(join(tmpdir(), "tunesmith-eval-"));
const write = (name: string, rows: readonly object[]) =>
  writeFileSync(join(folder, name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

interface Scores {
  readonly results: Record<string, Record<string, number>>;
  readonly comparisons: readonly { metric: string; difference: number; pValue: number; examples: number }[];
}
const scores = async (args: readonly string[]) => (await json(args, folder)) as unknown as Scores;

beforeAll(() => {
  write("code.jsonl", [
    { prompt: "export function ", completion: "add" },
    { prompt: "import { test } from ", completion: '"vitest"' },
    { prompt: "const x =", completion: " 1;" },
  ]);
  write("sorted.jsonl", [
    { text: "import x from", label: "code" },
    { text: "a nice day", label: "prose" },
  ]);
  write("good.jsonl", [
    { prediction: "the cat sat", references: "the cat sat" },
    { prediction: "a dog", references: ["the dog", "a dog"] },
    { prediction: "one two", references: "one two three" },
  ]);
  write("bad.jsonl", [
    { prediction: "the cat", references: "the cat sat" },
    { prediction: "the dog", references: ["the dog", "a dog"] },
    { prediction: "four", references: "one two three" },
  ]);
});

test("answers that the model writes, labels it finds likeliest, with files of examples", async () => {
  const written = await scores([
    ...["eval", MODEL, "--data", "code.jsonl", "--task", "generate", "--metrics", "exact_match,chrf"],
    ...["--max-tokens", "6", "--examples", "asked.jsonl", "--out", "written.json"],
  ]);
  expect(written.results.code?.sample_len).toBe(3);
  expect(written.results.code?.["chrf,none"]).toBeGreaterThanOrEqual(0);
  const asked = readFileSync(join(folder, "asked.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(asked.map((row) => row.arguments[0][0])).toEqual([
    "export function ",
    "import { test } from ",
    "const x =",
  ]);
  expect(JSON.parse(readFileSync(join(folder, "written.json"), "utf8")).samples.code.length).toBe(3);

  const sorted = await scores(["eval", MODEL, "--data", "sorted.jsonl", "--task", "classify"]);
  expect(Object.keys(sorted.results.sorted ?? {})).toContain("f1_macro,none");
}, 120_000);

test("task files", async () => {
  const { results } = await scores([
    "eval",
    MODEL,
    "--tasks",
    join(ROOT, "fixtures/harness/first.yaml"),
    "--limit",
    "4",
  ]);
  expect(results.first?.["acc_norm,none"]).toBeGreaterThanOrEqual(0);
  expect(results.first?.sample_len).toBe(4);
}, 60_000);

test("predictions without a model, and two runs compared", async () => {
  const task = ["--task", "predictions", "--metrics", "exact_match,bleu"];
  const good = await scores(["eval", "--data", "good.jsonl", ...task, "--out", "good.json"]);
  expect(good.results.good?.["exact_match,none"]).toBeCloseTo(2 / 3);
  await scores(["eval", "--data", "bad.jsonl", ...task, "--out", "bad.json"]);
  const { comparisons } = await scores(["eval", "--compare", "good.json", "bad.json", "--resamples", "500"]);
  expect(comparisons.map(({ metric, examples }) => [metric, examples])).toEqual([
    ["exact_match", 3],
    ["bleu", 3],
  ]);
  expect(comparisons[0]?.difference).toBeCloseTo(-1 / 3);
  expect(comparisons[0]?.pValue).toBeGreaterThan(0.05);
  const { stdout } = await run(["eval", "--compare", "good.json", "bad.json", "--resamples", "500"], folder);
  expect(stdout).toMatch(/better +good.json, which may be luck/);
}, 60_000);

test("what would do nothing, or cannot be done, is refused with the flag", async () => {
  const refused = async (args: readonly string[], words: RegExp) => {
    const { code, stderr } = await run(["eval", ...args], folder);
    expect(code).toBe(2);
    expect(stderr).toMatch(words);
  };
  await refused(["--data", "good.jsonl"], /--model is missing/);
  await refused(
    [MODEL, "--data", "code.jsonl", "--metrics", "bleu"],
    /--metrics does nothing with --task perplexity/,
  );
  await refused(["--compare", "good.json"], /--compare/);
  await refused(["--data", "good.jsonl", "--task", "predictions", "--metrics", "blue"], /no metric 'blue'/);
  await refused([MODEL, "--tasks", "t.yaml", "--data", "code.jsonl"], /--data does nothing with --tasks/);
}, 60_000);
