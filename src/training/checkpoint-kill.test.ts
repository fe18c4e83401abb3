import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { afterAll, beforeAll, expect, test } from "vitest";
import { listCheckpoints, loadLatest } from "./checkpoint.js";

/** Trains from the latest checkpoint on, saving every step, and prints each finished save. */
const program = `
import { loadLatest, saveCheckpoint } from "./src/training/checkpoint.ts";
import { adamw } from "./src/training/optim/optimizers.ts";
import { restoreOptimizerState, restoreParams } from "./src/training/optim/state.ts";
const [runDir, last] = process.argv.slice(2);
const params = new Map([["a", new Float32Array(20000).fill(0.5)], ["b", new Float32Array(100).fill(-1)]]);
const optimizer = adamw({ lr: 0.01, maxGradNorm: 5 });
const state = optimizer.init(params);
const { checkpoint } = await loadLatest(runDir);
if (checkpoint) {
  restoreParams(params, checkpoint.params);
  restoreOptimizerState(state, checkpoint.optimizer);
}
for (let step = (checkpoint?.state.step ?? 0) + 1; step <= Number(last); step++) {
  const grads = new Map([...params].map(([name, data]) => [name, data.map((w, i) => w + Math.sin(step * i))]));
  optimizer.step(params, grads, state, { step });
  await saveCheckpoint(runDir, { state: { step, epoch: 0 }, params, optimizer: state, config: null });
  console.log(step);
}
`;

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kill-"));
  await build({
    stdin: { contents: program, resolveDir: process.cwd(), loader: "ts" },
    outfile: join(folder, "train.mjs"),
    bundle: true,
    platform: "node",
    format: "esm",
    conditions: ["source"],
    logLevel: "error",
  });
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs the program; with `killAfter`, sends SIGKILL that long after its first save. Gives the last step it printed. */
function runProgram(runDir: string, steps: number, killAfter?: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(folder, "train.mjs"), runDir, String(steps)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    child.stdout.on("data", (chunk) => {
      if (output === "" && killAfter !== undefined) setTimeout(() => child.kill("SIGKILL"), killAfter);
      output += chunk;
    });
    child.on("error", reject);
    child.on("close", () => resolve(Number(output.trim().split("\n").at(-1))));
  });
}

test("killed while saving, again and again, then resumed: the same bits as uninterrupted", async () => {
  const steps = 100;
  const whole = join(folder, "whole");
  const killed = join(folder, "killed");
  await runProgram(whole, steps);
  for (const delay of [3, 11, 24, 38]) {
    const printed = await runProgram(killed, steps, delay);
    const { checkpoint } = await loadLatest(killed);
    // A save that was announced is never lost; the one after it may or may not have been completed.
    expect([printed, printed + 1]).toContain(checkpoint?.state.step);
  }
  expect((await loadLatest(killed)).checkpoint?.state.step).toBeLessThan(steps);
  await runProgram(killed, steps);
  const [a, b] = [await loadLatest(whole), await loadLatest(killed)];
  expect(b.checkpoint?.state.step).toBe(steps);
  expect(b.checkpoint?.params).toEqual(a.checkpoint?.params);
  expect(b.checkpoint?.optimizer).toEqual(a.checkpoint?.optimizer);
  expect(await listCheckpoints(killed)).toEqual([steps - 1, steps]);
});
