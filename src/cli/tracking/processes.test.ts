import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findRun } from "../../training/index.js";
import { openRunStore } from "./open.js";

/** Tracks a run of so many steps and says "started" after the first; without an end it goes on until it is killed. */
const program = `
import { hostname } from "node:os";
import { startTracker } from "./src/training/tracking/tracker.ts";
import { openRunStore } from "./src/cli/tracking/open.ts";
const [path, id, steps, end] = process.argv.slice(2);
const store = await openRunStore(path);
const run = { id, name: id, createdAt: Date.now(), host: hostname(), pid: process.pid, version: "0", method: "lora",
  model: "m", runDir: "d", steps: Number(steps), config: {}, origins: {} };
const onError = (error) => { console.error(error); process.exitCode = 1; };
const tracker = await startTracker({ store, run, flushEvery: 5, onError });
for (let step = 1; step <= Number(steps); step++) {
  tracker.log(step, { loss: 1 / step, learningRate: step });
  if (step % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  if (step === 1) console.log("started");
}
if (end) { await tracker.finish(end); await store.close(); }
else setInterval(() => {}, 1000);
`;

const folder = mkdtempSync(join(tmpdir(), "tunesmith-processes-"));
const bundle = join(process.cwd(), ".cache", `tracking-${process.pid}.mjs`);
beforeAll(async () => {
  await mkdir(join(process.cwd(), ".cache"), { recursive: true });
  await build({
    stdin: { contents: program, resolveDir: process.cwd(), loader: "ts" },
    outfile: bundle,
    bundle: true,
    platform: "node",
    format: "esm",
    packages: "external",
    conditions: ["source"],
    logLevel: "error",
  });
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  rmSync(bundle);
});

const start = (...args: string[]): ChildProcess =>
  spawn(process.execPath, [bundle, ...args], { stdio: ["ignore", "pipe", "inherit"] });
const ended = (child: ChildProcess): Promise<number | null> =>
  new Promise((resolve) => child.on("close", resolve));

test("a killed process leaves a run that is seen as interrupted, with what it had written", async () => {
  const path = join(folder, "killed.sqlite");
  const child = start(path, "killed", "50", "");
  const over = ended(child);
  await new Promise((resolve) => child.stdout?.once("data", resolve));
  const store = await openRunStore(path);
  for (let tries = 0; tries < 200 && (await findRun(store, "killed")).step < 50; tries++)
    await new Promise((resolve) => setTimeout(resolve, 20));
  expect(await findRun(store, "killed")).toMatchObject({ status: "running", step: 50 });
  child.kill("SIGKILL");
  await over;
  await store.close();
  const later = await openRunStore(path);
  expect(await findRun(later, "killed")).toMatchObject({ status: "interrupted", step: 50 });
  expect(await later.metrics("killed", ["loss"])).toHaveLength(50);
  await later.close();
});

test("processes that open one new file at once and write to it all get everything in", async () => {
  const path = join(folder, "shared.sqlite");
  const ids = ["a", "b", "c", "d"];
  const codes = await Promise.all(ids.map((id) => ended(start(path, id, "300", "finished"))));
  expect(codes).toEqual(ids.map(() => 0));
  const store = await openRunStore(path);
  const runs = await store.list();
  expect(runs.map(({ id, status, step }) => [id, status, step]).sort()).toEqual(
    ids.map((id) => [id, "finished", 300]),
  );
  for (const id of ids) expect(await store.metrics(id)).toHaveLength(600);
  await store.close();
});
