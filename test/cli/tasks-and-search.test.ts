import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { json, run, start } from "./run.js";

const MODEL = join(fileURLToPath(new URL("../../", import.meta.url)), "assets/default-model");
const folder = mkdtempSync(join(tmpdir(), "tunesmith-tasks-"));
const lines = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const sums = Array.from({ length: 12 }, (_, at) => ({ prompt: `${at} + ${at} =`, completion: ` ${2 * at}` }));
const words = Array.from({ length: 12 }, (_, at) => ({ prompt: `word ${at}:`, completion: ` w${at * at}` }));
writeFileSync(join(folder, "sums.jsonl"), lines(sums));
writeFileSync(join(folder, "words.jsonl"), lines(words));
const mixed = [
  ...sums.map((row) => ({ ...row, task: "sums" })),
  ...words.map((row) => ({ ...row, task: "words" })),
];
writeFileSync(join(folder, "mixed.jsonl"), lines(mixed));
const args = ["train", "--model", MODEL, "--length", "32", "--threads", "1", "--no-track", "--lr", "1e-2"];

interface Trained {
  readonly alignment: Record<
    "before" | "after",
    readonly { readonly layer: string; readonly dist: number }[]
  >;
  readonly modules: { readonly selected: readonly string[]; readonly table: readonly (readonly number[])[] };
  readonly receipt: { readonly sitesChanged: number };
  readonly scoresAfter: Readonly<Record<string, number>>;
}
const trained = async (more: readonly string[]) =>
  (await json([...args, ...more], folder)) as unknown as Trained;

test("--alignment draws tasks together, named by a field or by files", async () => {
  const how = [
    "--steps",
    "12",
    "--targets",
    "q_proj,v_proj",
    "--alignment",
    '{"weight": 1}',
    "--validation-share",
    "0",
  ];
  const byField = await trained([...how, "--data", "mixed.jsonl", "--out", "by-field"]);
  const byFile = await trained([...how, "--data", "sums.jsonl", "words.jsonl", "--out", "by-file"]);
  const mean = (gaps: Trained["alignment"]["before"]) =>
    gaps.reduce((sum, { dist }) => sum + dist, 0) / gaps.length;
  for (const { alignment } of [byField, byFile]) {
    expect(alignment.before).toHaveLength(8);
    expect(mean(alignment.after)).toBeLessThan(0.8 * mean(alignment.before));
  }
  expect(byFile.alignment).toEqual(byField.alignment);
}, 120_000);

test("--alignment without tasks, or of another method, is refused", async () => {
  const refused = async (more: readonly string[]) =>
    (await run([...args, "--steps", "1", "--out", "refused", "--alignment", "{}", ...more], folder)).stderr;
  expect(await refused(["--data", "sums.jsonl"])).toMatch(/row 1 does not say which task it is of/);
  expect(await refused(["--data", "mixed.jsonl", "--batch-size", "3"])).toMatch(/holds 1 of each of 2 tasks/);
  expect(await refused(["--data", "mixed.jsonl", "--method", "ia3"])).toMatch(/no module has a LoRA/);
}, 120_000);

test("diffora searches before the run, and a continued run keeps what it found", async () => {
  const how = ["--method", "diffora", "--per-layer", "1", "--targets", "q_proj,down_proj", "--rank", "2"];
  const search = ["--search-steps", "3", "--kernel-samples", "2", "--save-every", "2"];
  const whole = ["--data", "mixed.jsonl", "--out", "searched", ...how, ...search];
  const first = await trained([...whole, "--steps", "2"]);
  expect(first.modules.selected).toHaveLength(4);
  expect(first.modules.table.map((row) => row.reduce((a, b) => a + b, 0))).toEqual([1, 1, 1, 1]);
  expect(first.receipt.sitesChanged).toBe(4);
  const config = JSON.parse(readFileSync(join(folder, "searched/adapter_config.json"), "utf8"));
  expect(config).toMatchObject({ peft_type: "LORA", target_modules: first.modules.selected });
  const kept = JSON.parse(readFileSync(join(folder, "searched/modules.json"), "utf8"));
  expect(kept.leastEigenvalue.all).toBeGreaterThanOrEqual(kept.leastEigenvalue.selected);
  const again = await run([...args, ...whole, "--steps", "2", "--resume", "--json"], folder);
  expect(again.code).toBe(0);
  expect(again.stdout).not.toMatch(/steps of search/);
  expect(existsSync(join(folder, "searched/.run/search.json"))).toBe(true);
}, 120_000);

test("a search that was killed goes on, and ends where one that was not does", async () => {
  const how = ["--method", "diffora", "--warm-start", "--targets", "q_proj,down_proj", "--rank", "2"];
  const whole = ["--data", "mixed.jsonl", ...how, "--search-steps", "8", "--steps", "2", "--save-every", "1"];
  const adapter = (out: string) => readFileSync(join(folder, out, "adapter_model.safetensors"));
  await trained([...whole, "--out", "whole"]);
  const { child, finished } = start([...args, ...whole, "--out", "killed"], folder);
  const steps = join(folder, "killed/.run/search/checkpoints");
  // Two checkpoints: the first of them is complete.
  while (!existsSync(steps) || readdirSync(steps).length < 2)
    await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill("SIGKILL");
  expect((await finished).code).toBeNull();
  expect(existsSync(join(folder, "killed/.run/search.json"))).toBe(false);
  const again = await run([...args, ...whole, "--out", "killed", "--resume"], folder);
  expect(again.stderr + again.stdout).toMatch(/continuing the search after step [1-7]/);
  expect(adapter("killed").equals(adapter("whole"))).toBe(true);
}, 120_000);

test("poly learns the task of every row; its adapter is used for one task by name", async () => {
  const how = ["--method", "poly", "--rank", "4", "--skills", "2", "--targets", "all-linear"];
  const whole = [
    ...how,
    "--steps",
    "24",
    "--batch-size",
    "4",
    "--save-every",
    "10",
    "--validation-share",
    "0.3",
  ];
  const first = await trained([...whole, "--data", "sums.jsonl", "words.jsonl", "--out", "poly"]);
  const folderOf = join(folder, "poly");
  const config = JSON.parse(readFileSync(join(folderOf, "adapter_config.json"), "utf8"));
  expect(config).toMatchObject({ peft_type: "POLY", n_tasks: 2, n_skills: 2 });
  expect(JSON.parse(readFileSync(join(folderOf, "tasks.json"), "utf8"))).toEqual({
    tasks: ["sums", "words"],
  });
  const scores = first.scoresAfter;
  expect(Object.keys(scores)).toEqual(expect.arrayContaining(["perplexity.sums", "perplexity.words"]));
  // The same by a field, and continued from a checkpoint.
  const named = [...whole, "--data", "mixed.jsonl", "--out", "poly-mixed"];
  await trained(named);
  const weights = (out: string) => readFileSync(join(folder, out, "adapter_model.safetensors"));
  expect(weights("poly-mixed").equals(weights("poly"))).toBe(true);
  rmSync(join(folder, "poly-mixed/.run/checkpoints/step-000024"), { recursive: true });
  writeFileSync(join(folder, "poly-mixed/adapter_model.safetensors"), "");
  await trained([...named, "--resume"]);
  expect(weights("poly-mixed").equals(weights("poly"))).toBe(true);
  const evaluate = async (data: string, task: string) => {
    const command = ["eval", "--model", MODEL, "--adapter", "poly", "--adapter-task", task, "--data", data];
    return (await json([...command, "--length", "32", "--threads", "1"], folder)).loss;
  };
  expect(await evaluate("sums.jsonl", "sums")).toBeLessThan(await evaluate("sums.jsonl", "words"));
  expect(await evaluate("words.jsonl", "1")).toBeLessThan(await evaluate("words.jsonl", "0"));
  const wrong = [
    "eval",
    "--model",
    MODEL,
    "--adapter",
    "poly",
    "--adapter-task",
    "nouns",
    "--data",
    "sums.jsonl",
  ];
  expect((await run(wrong, folder)).stderr).toMatch(/no task 'nouns'[\s\S]*sums, words/);
  const idle = ["eval", "--model", MODEL, "--adapter-task", "sums", "--data", "sums.jsonl"];
  expect((await run(idle, folder)).stderr).toMatch(/does nothing without --adapter/);
}, 240_000);

test("poly learns several tasks of a classifier", async () => {
  const rows = (word: string, turned: number) =>
    lines(Array.from({ length: 12 }, (_, at) => ({ text: `${word} ${at}`, label: `${(at + turned) % 2}` })));
  writeFileSync(join(folder, "odd.jsonl"), rows("number", 0));
  writeFileSync(join(folder, "even.jsonl"), rows("count", 1));
  const how = ["--task", "sequence-classification", "--method", "poly", "--rank", "2", "--tasks", "3"];
  const data = ["--data", "odd.jsonl", "even.jsonl", "--validation-share", "0.3", "--out", "poly-classes"];
  const { scoresAfter } = await trained([...how, ...data, "--steps", "4", "--targets", "q_proj"]);
  expect(Object.keys(scoresAfter)).toEqual(expect.arrayContaining(["accuracy.odd", "accuracy.even"]));
  const config = JSON.parse(readFileSync(join(folder, "poly-classes/adapter_config.json"), "utf8"));
  expect(config.n_tasks).toBe(3);
}, 120_000);
