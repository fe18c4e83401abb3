import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { json, run } from "./run.js";

const MODEL = join(fileURLToPath(new URL("../../", import.meta.url)), "assets/default-model");
const folder = mkdtempSync(join(tmpdir(), "tunesmith-arrow-cli-"));
const rows = Array.from({ length: 8 }, (_, at) => `${JSON.stringify({ text: `line ${at} of a text` })}\n`);
writeFileSync(join(folder, "rows.jsonl"), rows.join(""));

const MODEL_ARGS = ["--model", MODEL];
const train = [
  "train",
  ...MODEL_ARGS,
  "--data",
  "rows.jsonl",
  "--length",
  "32",
  "--threads",
  "1",
  "--no-track",
];

test("adapters become the experts of one, which is used like any other", async () => {
  for (const seed of ["1", "2"])
    await json([...train, "--steps", "3", "--rank", "2", "--seed", seed, "--out", `expert${seed}`], folder);
  const experts = ["--experts", "expert1,expert2", "--out", "routed"];
  const made = await json(["arrow", ...MODEL_ARGS, ...experts, "--top-k", "1"], folder);
  expect(made).toMatchObject({ out: "routed", receipt: { method: "arrow" } });
  expect(existsSync(join(folder, "routed/task_1/adapter_model.safetensors"))).toBe(true);
  const { loss } = await json(["eval", MODEL, "--adapter", "routed", "--data", "rows.jsonl"], folder);
  const { loss: plain } = await json(["eval", MODEL, "--data", "rows.jsonl"], folder);
  expect(loss).toBeLessThan(plain);
  const { code, stderr } = await run(["arrow", ...MODEL_ARGS, "--experts", "nowhere", "--out", "x"], folder);
  expect(code).toBeGreaterThan(0);
  expect(stderr).toMatch(/nowhere/);
}, 120_000);

test("aLoRA learns after an invocation that is given as a text", async () => {
  const args = [
    "--method",
    "alora",
    "--invocation",
    " of a",
    "--rank",
    "2",
    "--steps",
    "3",
    "--out",
    "alora",
  ];
  const { lossAfter, lossBefore } = (await json([...train, ...args], folder)) as unknown as Record<
    string,
    number
  >;
  expect(lossAfter).toBeLessThan(Number(lossBefore));
}, 60_000);
