import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { findRun, MODEL_CARD_MARK } from "../../training/index.js";
import type { Context } from "../command.js";
import type { RunConfig } from "../commands/prepare-run.js";
import { runRunsCompare, runRunsDelete, runRunsList, runRunsShow } from "../commands/runs.js";
import { runRunsExport } from "../commands/runs-export.js";
import { runRunsPlot } from "../commands/runs-plot.js";
import { resolveOptions } from "../config/resolve.js";
import { runSchema } from "../config/schema.js";
import { followRun, type Outcome } from "./follow.js";
import { openRunStore } from "./open.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-runs-"));
const track = join(folder, "runs.sqlite");
afterAll(() => rmSync(folder, { recursive: true }));

/** What a command said and gave. */
function heard(json = false) {
  const said: string[] = [];
  const results: object[] = [];
  const ui: Context["ui"] = {
    json,
    say: (text = "") => void said.push(text),
    write: (text) => void said.push(text),
    note: (text) => void said.push(text),
    result: (value) => void results.push(value),
    progress: () => ({ update() {}, stop() {} }),
  };
  const context: Context = { ui, signal: new AbortController().signal, origins: { lr: "--lr" } };
  return { context, said: () => said.join("\n"), result: () => results.at(-1) as Record<string, unknown> };
}

const config = (out: string, more: Record<string, unknown> = {}) =>
  resolveOptions(runSchema("lora"), {
    flags: { model: "org/base", data: "notes.jsonl", out: join(folder, out), track, ...more },
  }) as unknown as RunConfig;

const outcome: Outcome = {
  kind: "adapter",
  before: { loss: 3, count: 10, scores: { perplexity: 20 } },
  after: { loss: 2, count: 10, scores: { perplexity: 7 } },
  data: {
    source: "notes.jsonl",
    layout: "text",
    rows: 3,
    dropped: 0,
    tokens: 9,
    trainedTokens: 8,
    truncated: 0,
  },
  receipt: { changeNorm: 0.5 },
  receiptText: "28 of 28 modules changed",
};

const step = (at: number, loss: number) =>
  ({
    type: "step",
    step: at,
    steps: 3,
    loss,
    ...{ learningRate: 0.1, gradNorm: 1, tokensPerSecond: 5, remainingSeconds: undefined },
  }) as const;

/** A run that went well. */
async function follow(options: RunConfig) {
  const { context, said } = heard();
  const following = await followRun(options, 3, context);
  following.before(outcome.before);
  for (const at of [1, 2, 3]) following.onEvent(step(at, 3 / at));
  return { following, said };
}

beforeAll(async () => {
  for (const [name, lr] of [
    ["one", 1e-3],
    ["two", 2e-3],
  ] as const) {
    const { following } = await follow(config(name, { lr }));
    await following.finished(outcome);
  }
});

test("a run leaves its configuration, where that came from, and a card for the hub", () => {
  const read = (name: string) => readFileSync(join(folder, "one", name), "utf8");
  expect(JSON.parse(read("tunesmith.json"))).toMatchObject({ lr: 1e-3, rank: 8, method: "lora" });
  expect(JSON.parse(read("tunesmith.origins.json"))).toMatchObject({ lr: "--lr", rank: "default" });
  const card = read("README.md");
  expect(card).toContain("base_model: org/base");
  expect(card).toContain("| held-out perplexity, after | 7 |");
  expect(card).toContain("28 of 28 modules changed");
  // Folders of this machine are nobody's business.
  expect(card).not.toContain(folder);
});

test("list, show and compare, as text and as JSON", async () => {
  const [list, show, compare] = [heard(), heard(), heard()];
  await runRunsList({ track, limit: 20 }, list.context);
  expect(list.said()).toMatch(/id +name +state[\s\S]*two +finished +lora +org\/base +3\/3 +1 /);
  await runRunsShow({ track, run: "one" }, show.context);
  expect(show.said()).toMatch(/lr +0\.001 +--lr/);
  expect(show.said()).toMatch(/evalPerplexity +1 +20 +20 +20/);
  expect(show.result()).toMatchObject({
    name: "one",
    artifacts: expect.arrayContaining([
      expect.objectContaining({ kind: "adapter", details: { changeNorm: 0.5 } }),
      expect.objectContaining({ kind: "card" }),
    ]),
  });
  await runRunsCompare({ track, runs: ["one", "two"] }, compare.context);
  expect(compare.said()).toMatch(/lr +0\.001 +0\.002/);
  expect(compare.said()).not.toMatch(/rank/);
  const json = heard(true);
  await runRunsCompare({ track, runs: ["one", "two"] }, json.context);
  expect(json.said()).toBe("");
  expect(json.result()).toMatchObject({
    config: expect.arrayContaining([{ key: "lr", values: [1e-3, 2e-3] }]),
    metrics: expect.arrayContaining([{ key: "loss", values: [1, 1] }]),
  });
});

test("plots to the terminal and to files; unknown metrics and endings are errors", async () => {
  const { context, said } = heard();
  const out = ["html", "svg", "png"].map((ending) => join(folder, `plot.${ending}`));
  await runRunsPlot({ track, runs: ["one", "two"], smoothing: 0.5, out }, context);
  expect(said()).toContain("two evalLoss");
  expect(readFileSync(join(folder, "plot.html"), "utf8")).toMatch(
    /<td>lr<\/td><td>0\.001<\/td><td>0\.002<\/td>/,
  );
  for (const path of out) expect(existsSync(path), path).toBe(true);
  const wrong = { track, runs: ["one"], smoothing: 0, out: [] };
  await expect(runRunsPlot({ ...wrong, metrics: ["lossy"] }, context)).rejects.toThrow(/lossy/);
  await expect(runRunsPlot({ ...wrong, out: ["plot.pdf"] }, context)).rejects.toThrow(/plot\.pdf/);
});

test("exports", async () => {
  const { context } = heard();
  const to = (name: string) => join(folder, name);
  await runRunsExport({ track, run: "one", format: "csv", out: to("one.csv") }, context);
  expect(readFileSync(to("one.csv"), "utf8").split("\n")[0]).toBe(
    "step,timestamp,evalLoss,evalPerplexity,gradNorm,learningRate,loss,tokensPerSecond",
  );
  await runRunsExport({ track, run: "one", format: "jsonl", out: to("one.jsonl") }, context);
  expect(JSON.parse(readFileSync(to("one.jsonl"), "utf8").split("\n")[0] ?? "")).toMatchObject({
    name: "one",
  });
  const events = heard();
  await runRunsExport({ track, run: "one", format: "tensorboard", out: to("tb") }, events.context);
  expect(readFileSync(String(events.result().path)).includes("train/learning_rate")).toBe(true);
});

test("a failed and a cancelled run are kept as such", async () => {
  const failed = await follow(config("failed"));
  await failed.following.ended(new TunesmithError("loss-not-finite", "the loss is NaN"));
  const cancelled = await follow(config("cancelled"));
  await cancelled.following.ended(new TunesmithError("cancelled", "interrupted"));
  const store = await openRunStore(track);
  expect(await findRun(store, "failed")).toMatchObject({
    status: "failed",
    error: "the loss is NaN",
    step: 3,
  });
  expect(await findRun(store, "cancelled")).toMatchObject({ status: "interrupted" });
  await store.close();
  const list = heard();
  await runRunsList({ track, limit: 20, status: "failed" }, list.context);
  expect((list.result().runs as unknown[]).length).toBe(1);
});

test("--resume goes on with the run of its folder", async () => {
  const first = await follow(config("again"));
  await first.following.ended(new TunesmithError("cancelled", "interrupted"));
  const second = await follow(config("again", { resume: true }));
  await second.following.finished(outcome);
  const store = await openRunStore(track);
  const runs = (await store.list()).filter(({ name }) => name === "again");
  expect(runs.map(({ status }) => status)).toEqual(["finished"]);
  await store.close();
});

test("event files without a database; a README of one's own stays", async () => {
  const out = join(folder, "untracked");
  const options = config("untracked", { track: false, tensorboard: join(folder, "events") });
  const first = await follow(options);
  expect(readFileSync(join(out, "tunesmith.json"), "utf8")).toContain('"track": false');
  await first.following.finished(outcome);
  expect(first.said()).not.toContain("recorded");
  const card = readFileSync(join(out, "README.md"), "utf8");
  expect(card).toContain(MODEL_CARD_MARK);
  writeFileSync(join(out, "README.md"), "mine");
  await (await follow(options)).following.finished(outcome);
  expect(readFileSync(join(out, "README.md"), "utf8")).toBe("mine");
  const store = await openRunStore(track);
  await expect(findRun(store, "untracked")).rejects.toMatchObject({ code: "run-not-found" });
  await store.close();
});

test("a database that was asked for must open; a password is saved nowhere", async () => {
  const options = config("closed", { track: "postgres://me:hunter2@127.0.0.1:1/db" });
  const { context } = heard();
  await expect(followRun(options, 3, context)).rejects.toMatchObject({ code: "tracking-failed" });
  expect(readFileSync(join(folder, "closed", "tunesmith.json"), "utf8")).not.toContain("hunter2");
});

test("deleting removes the record and leaves the files", async () => {
  const { context, result } = heard();
  await runRunsDelete({ track, runs: ["two"] }, context);
  expect(result().deleted).toHaveLength(1);
  expect(existsSync(join(folder, "two", "README.md"))).toBe(true);
  await expect(runRunsDelete({ track, runs: ["two"] }, context)).rejects.toMatchObject({
    code: "run-not-found",
  });
});
