import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Pack, packExamples } from "../data/index.js";
import { adapt, loadAdapter, lora, merge, saveAdapter } from "../methods/index.js";
import { type CausalLm, exportOnnx, loadFolder, loadModel, logitsOf } from "../models/index.js";
import { maxAbsDiff } from "../tensor/index.js";
import { adamw, evaluateOnce, type TrainEvent, type TrainOptions, train } from "./index.js";

const FIXTURE = (name: string) => new URL(`../../fixtures/models/${name}`, import.meta.url).pathname;
const ASSET = join(process.env.TUNESMITH_ASSETS ?? "../shared/assets", "models/tiny-random-gpt2/past.onnx");

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "onnx-train-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function packs(strategy: "ffd" | "none"): Pack[] {
  const examples = Array.from({ length: 8 }, (_, index) => {
    const length = 5 + (index % 4);
    const ids = Int32Array.from({ length }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(length).fill(1, 1) };
  });
  return packExamples(examples, { length: 16, strategy });
}

async function run(
  base: CausalLm,
  strategy: "ffd" | "none",
  extra: Partial<TrainOptions> = {},
  layers?: number[],
) {
  const targets = [...base.defaultTargets, base.defaultTargets.includes("c_attn") ? "c_fc" : "down_proj"];
  const model = await adapt(base, lora({ rank: 4, alpha: 8, targets, ...(layers ? { layers } : {}) }));
  const losses: number[] = [];
  const onEvent = (event: TrainEvent) => event.type === "step" && losses.push(event.loss);
  const rows = packs(strategy);
  const shape = { batchSize: 2, lengths: [16], padId: 0 };
  await train(model, {
    train: rows,
    ...shape,
    steps: 6,
    optimizer: adamw({ lr: 1e-2 }),
    seed: 3,
    onEvent,
    ...extra,
  });
  const { loss } = await evaluateOnce(model, rows, shape);
  return { model, losses: [...losses, loss] };
}

const expectClose = (a: readonly number[], b: readonly number[]) => {
  expect(a.length).toBe(b.length);
  for (const [at, value] of a.entries()) expect(Math.abs(value - Number(b[at]))).toBeLessThan(2e-5);
};

describe.each(["gpt2", "llama"])("%s from an ONNX file", (name) => {
  test("trains as from its own folder: packed, recomputed, and from a cached prefix", async () => {
    const base = await loadFolder(FIXTURE(name));
    const imported = await loadModel((await exportOnnx(base, join(folder, name))).path);
    const reference = await run(base, "ffd");
    expect(reference.losses[5]).toBeLessThan(Number(reference.losses[0]));
    const { model, losses } = await run(imported, "ffd");
    expectClose(losses, reference.losses);
    expectClose((await run(imported, "ffd", { recompute: true })).losses, reference.losses);
    const upper = await run(base, "ffd", {}, [1]);
    expectClose((await run(imported, "ffd", { prefixCacheBytes: 1e6 }, [1])).losses, upper.losses);
    // The adapter belongs to the modules, not to the file: it works on the original too.
    await saveAdapter(model, join(folder, `${name}-adapter`));
    const ids = [5, 9, 33, 2, 7];
    const moved = await loadAdapter(imported, join(folder, `${name}-adapter`));
    const logits = await logitsOf(model, ids);
    expect(maxAbsDiff(await logitsOf(moved, ids), logits)).toBeLessThan(1e-6);
    const merged = await exportOnnx(await merge(model), join(folder, `${name}-merged`));
    expect(maxAbsDiff(await logitsOf(await loadModel(merged.path), ids), logits)).toBeLessThan(1e-5);
  });

  test("a file with a cache trains one document per row, and refuses to mix several", async () => {
    const base = await loadFolder(FIXTURE(name));
    const { path } = await exportOnnx(base, join(folder, `${name}-cache`), { cache: true });
    const imported = await loadModel(path);
    expectClose((await run(imported, "none")).losses, (await run(base, "none")).losses);
    await expect(run(imported, "ffd")).rejects.toMatchObject({ code: "data-invalid" });
  });
});

const present = existsSync(ASSET);
test.skipIf(!present)(
  `a fused file of another exporter trains${present ? "" : ` (skipped: ${ASSET} is absent)`}`,
  async () => {
    const { losses } = await run(await loadModel(ASSET), "none", { steps: 30, recompute: true });
    expect(losses.at(-1)).toBeLessThan(Number(losses[0]) * 0.95);
  },
);
