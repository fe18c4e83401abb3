import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { json, run } from "./run.js";

const MODEL = join(fileURLToPath(new URL("../../", import.meta.url)), "assets/default-model");
const folder = mkdtempSync(join(tmpdir(), "tunesmith-mpo-"));
const rows = ["one and two", "two and three", "three and four", "four and five"];
writeFileSync(join(folder, "rows.jsonl"), rows.map((text) => `${JSON.stringify({ text })}\n`).join(""));

const TRAIN = "train --data rows.jsonl --steps 2 --length 32 --threads 1 --no-track --validation-share 0.3";
const args = [...TRAIN.split(" "), "--model", MODEL, "--method", "mpo-shared"];

test("a deeper model with shared chains is trained, written as a plain model, and read again", async () => {
  const trained = await json([...args, "--depth", "6", "--groups", "4", "--out", "deep"], folder);
  expect(trained.receipt).toMatchObject({ method: "mpo-shared", maps: 42 });
  expect(Number(trained.receipt.startError)).toBeLessThan(1e-6);
  expect(JSON.parse(readFileSync(join(folder, "deep/config.json"), "utf8")).num_hidden_layers).toBe(6);
  const { loss } = await json(
    ["eval", "--model", "deep", "--data", "rows.jsonl", "--length", "32", "--threads", "1"],
    folder,
  );
  expect(loss).toBeGreaterThan(0);
}, 60_000);

test("a start that is not the base is said", async () => {
  const { stderr } = await run([...args, "--rounds", "0", "--dry-run", "--out", "one"], folder);
  expect(stderr).toMatch(/the shared chains miss \d+\.\d % of the weights/);
}, 60_000);
