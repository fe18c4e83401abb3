import { type ChildProcess, spawn } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { rng } from "../runtime/random/index.js";

/** A run of the real loop that says every step and, at its end, a hash of its weights. */
const program = `
import { createHash } from "node:crypto";
import { packExamples } from "./src/data/index.ts";
import { applyMethod, diffora, searchModules } from "./src/methods/index.ts";
import { loadFolder } from "./src/models/index.ts";
import { createOptimizer, fit, nextToken } from "./src/training/index.ts";
const [runDir, text] = process.argv.slice(2);
const { method, methodOptions = {}, optimizer, options = {}, ...rest } = JSON.parse(text);
const base = await loadFolder("fixtures/models/llama");
const packs = packExamples(Array.from({ length: 14 }, (_, index) => {
  const ids = Int32Array.from({ length: 7 }, (_, at) => (3 + index + 5 * at) % 60);
  return { ids, lossMask: new Uint8Array(7).fill(1, 1) };
}), { length: 8, strategy: "none" });
const plan = { batchSize: 2, lengths: [8], padId: 0 };
const common = { saveEvery: 1, resume: true, session: { threads: 1, worker: false } };
const searched = () => searchModules(base, diffora(methodOptions), {
  ...common, steps: Math.floor(rest.steps / 2), seed: 3, runDir: runDir + "/search", optimizer: createOptimizer(optimizer, options),
  objective: (own, half) => nextToken(own, { ...plan, train: half === "gates" ? packs.slice(8) : packs.slice(0, 8) }),
  onGates: ({ step }) => process.stdout.write(step + "\\n"),
});
const model = method === "diffora" ? (await searched()).model : await applyMethod(base, method, methodOptions, { seed: 3 });
const objective = nextToken(model, { ...plan, train: packs, validation: packs.slice(0, 2) });
const result = await fit(objective, {
  ...common, seed: 9, runDir, optimizer: createOptimizer(optimizer, options), ...rest,
  onEvent: (event) => event.type === "step" && process.stdout.write(event.step + "\\n"),
});
const hash = createHash("sha256");
for (const { tensor } of model.parameters.values()) hash.update(tensor.data);
process.stdout.write("done " + hash.digest("hex") + " " + result.restoredStep + "\\n");
`;

const runs = {
  "an adapter with dropout, accumulated": {
    ...{ method: "lora", methodOptions: { rank: 2, dropout: 0.1 }, optimizer: "adamw" },
    ...{ options: { lr: 1e-2, maxGradNorm: 1 }, accumulate: 2 },
  },
  "full fine-tuning, updates in the graph": {
    ...{ method: "full", optimizer: "muon", options: { lr: 1e-2 }, updateIn: "graph" },
  },
  "a method with state of its own": {
    ...{
      method: "rosa",
      methodOptions: { rank: 2 },
      optimizer: "schedule-free-adamw",
      options: { lr: 1e-2 },
    },
  },
  "a search before the run, from which it starts": {
    ...{
      method: "diffora",
      methodOptions: {
        rank: 2,
        order: 2,
        dropout: 0.1,
        warmStart: true,
        perLayer: 1,
        targets: ["q_proj", "v_proj"],
      },
    },
    ...{ optimizer: "adamw", options: { lr: 1e-2 } },
  },
  "early stopping and Fast Forward, 8-bit state": {
    ...{
      method: "lora",
      methodOptions: { rank: 2 },
      optimizer: "adamw",
      options: { lr: 1e-2, stateBits: 8 },
    },
    ...{ evalEvery: 3, patience: 20, fastForward: { interval: 4, burnIn: 4, maxTrials: 4 } },
  },
};

/** Kills of each run; set TUNESMITH_KILLS for more. */
const KILLS = Number(process.env.TUNESMITH_KILLS ?? 5);
const cache = new URL("../../.cache", import.meta.url).pathname;
let folder = "";
beforeAll(async () => {
  await mkdir(cache, { recursive: true });
  // Within the repository, so that its packages are found.
  folder = await mkdtemp(join(cache, "kill-"));
  await build({
    stdin: { contents: program, resolveDir: process.cwd(), loader: "ts" },
    ...{ outfile: join(folder, "train.mjs"), bundle: true, platform: "node", format: "esm" },
    ...{ packages: "external", conditions: ["source"], logLevel: "error" },
  });
  await copyFile("src/runtime/ort/worker.mjs", join(folder, "worker.mjs"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs to the end, or to a SIGKILL so many milliseconds after so many steps; gives the last line. */
function child(
  runDir: string,
  run: object,
  kill?: { readonly steps: number; readonly milliseconds: number },
) {
  return new Promise<string>((resolve, reject) => {
    const started: ChildProcess = spawn(
      process.execPath,
      [join(folder, "train.mjs"), runDir, JSON.stringify(run)],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    let output = "";
    let seen = 0;
    started.stdout?.on("data", (chunk) => {
      output += chunk;
      const before = seen;
      seen = output.split("\n").length - 1;
      if (kill && before < kill.steps && seen >= kill.steps)
        setTimeout(() => started.kill("SIGKILL"), kill.milliseconds);
    });
    started.on("error", reject);
    started.on("close", () => resolve(output.trim().split("\n").at(-1) ?? ""));
  });
}

describe.each(Object.entries(runs))("%s", (name, part) => {
  // No kill comes after more than three or four steps of its process.
  const run = { ...part, steps: 5 * KILLS };
  test(`killed ${KILLS} times at random points and continued: the weights of a run that was not`, {
    timeout: 600_000,
  }, async () => {
    const random = rng(17, name);
    const whole = await child(join(folder, name, "whole"), run);
    expect(whole).toMatch(/^done [0-9a-f]{64}/);
    const killed = join(folder, name, "killed");
    for (let kill = 0; kill < KILLS; kill++) {
      const at = {
        steps: 1 + Math.floor(random.uniform() * 3),
        milliseconds: Math.floor(random.uniform() * 40),
      };
      expect(await child(killed, run, at)).toMatch(/^\d+$/);
    }
    expect(await child(killed, run)).toBe(whole);
  });
});
