/**
 * What recording a run costs: processor time of a tracker with a SQLite file, for steps that come as fast as a small
 * model makes them. `node scripts/run-ts.mjs bench/tracking.ts`
 */
import { mkdtempSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { openRunStore } from "../src/cli/tracking/open.js";
import { startTracker } from "../src/training/tracking/index.js";

const STEPS = 1500;
const STEP_MS = 10;
const folder = mkdtempSync(join(tmpdir(), "tunesmith-tracking-"));
const path = join(folder, "runs.sqlite");

/** Processor milliseconds of so many idle steps, each followed by `after`. */
async function cost(after: (step: number) => void): Promise<number> {
  const start = process.cpuUsage();
  for (let step = 1; step <= STEPS; step++) {
    await new Promise((resolve) => setTimeout(resolve, STEP_MS));
    after(step);
  }
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}

const store = await openRunStore(path);
const tracker = await startTracker({
  store,
  run: {
    ...{ id: "bench", name: "bench", createdAt: Date.now(), host: hostname(), pid: process.pid },
    ...{ version: "0", method: "lora", model: "m", runDir: folder, steps: STEPS, config: {}, origins: {} },
  },
});
await cost(() => {});
const idle = await cost(() => {});
const tracked = await cost((step) =>
  tracker.onEvent({
    ...{ type: "step", step, steps: STEPS, loss: 1 / step, learningRate: 1e-3, gradNorm: 1 },
    ...{ tokensPerSecond: 1000, remainingSeconds: 1 },
  } as const),
);
await tracker.finish("finished");
const points = (await store.metrics("bench")).length;
await store.close();
const perStep = (tracked - idle) / STEPS;
console.log(
  JSON.stringify({
    steps: STEPS,
    points,
    millisecondsPerStep: Number(perStep.toFixed(4)),
    shareOfATenMillisecondStep: Number((perStep / STEP_MS).toFixed(4)),
  }),
);
rmSync(folder, { recursive: true });
