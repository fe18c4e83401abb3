import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { json, run } from "./run.js";

const MODEL = join(fileURLToPath(new URL("../../", import.meta.url)), "assets/default-model");
const folder = mkdtempSync(join(tmpdir(), "tunesmith-compare-"));
const rows = ["one and two", "two and three", "three and four", "four and five"];
writeFileSync(join(folder, "rows.jsonl"), rows.map((text) => `${JSON.stringify({ text })}\n`).join(""));
const args = ["compare", "--model", MODEL, "--data", "rows.jsonl", "--length", "32", "--threads", "1"];
const brief = [...args, "--steps", "2", "--validation-share", "0.3"];

interface Compared {
  readonly results: readonly {
    readonly method: string;
    readonly lossAfter: number;
    readonly stepSeconds: number;
    readonly parameters: number;
    readonly steps: number;
    readonly memoryBytes: number;
    readonly failed?: string;
  }[];
}

test("methods are compared under the same settings, with a chart", async () => {
  const spike = ["--loss-spike", "stop", "--recompute", "--out", "both"];
  const { results } = (await json(
    [...brief, "--methods", "lora,ia3", ...spike],
    folder,
  )) as unknown as Compared;
  expect(results.map(({ method }) => method)).toEqual(["lora", "ia3"]);
  for (const { lossAfter, stepSeconds } of results) {
    expect(lossAfter).toBeGreaterThan(0);
    expect(stepSeconds).toBeGreaterThan(0);
  }
  expect(existsSync(join(folder, "both.svg"))).toBe(true);
}, 60_000);

test("with a budget of numbers, each method takes the size that fits", async () => {
  const { results } = (await json(
    [...brief, "--methods", "lora,fourierft,ia3,c3a", "--budget-parameters", "6000", "--out", "sized"],
    folder,
  )) as unknown as Compared;
  const parameters = Object.fromEntries(results.map((result) => [result.method, result.parameters]));
  expect(results.map(({ failed }) => failed)).toEqual([undefined, undefined, undefined, undefined]);
  // By default lora has rank 8, fourierft 1000 numbers a site; c3a's default blocks do not even fit this model.
  for (const method of ["lora", "fourierft", "c3a"]) {
    expect(parameters[method]).toBeLessThanOrEqual(6000);
    expect(parameters[method]).toBeGreaterThan(3000);
  }
  for (const { memoryBytes } of results) expect(memoryBytes).toBeGreaterThan(1e6);
}, 60_000);

test("with a budget of time, steps are what fits", async () => {
  const { results } = (await json(
    [...args, "--validation-share", "0.3", "--methods", "lora", "--budget-seconds", "1"],
    folder,
  )) as unknown as Compared;
  const [{ steps = 0, stepSeconds = 0 } = {}] = results;
  expect(steps).toBeGreaterThan(0);
  // Steps of the trial and of the run are timed apart, on a machine that does other things too.
  expect(steps * stepSeconds).toBeLessThan(20);
}, 60_000);

test.each<[string[], RegExp]>([
  [["--methods", "lora,lora"], /'lora' twice/],
  [["--methods", "lora", "--options", '{"ia3": {"lr": 0.1}}'], /'ia3' is not compared/],
  [["--methods", "lora", "--validation-share", "0"], /no validation data/],
  [["--methods", "lora", "--budget-seconds", "1"], /--budget-seconds sets them/],
  [["--methods", "lora", "--tensorboard", "tb"], /unknown option '--tensorboard'/],
])(
  "what would do nothing is refused: %#",
  async (given, words) => {
    const { code, stderr } = await run([...args, "--steps", "2", ...given], folder);
    expect(stderr).toMatch(words);
    expect(code).toBe(2);
  },
  30_000,
);
