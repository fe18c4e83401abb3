import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { input, makeGraph, ops } from "../graph/index.js";
import { adapt, lora } from "../methods/index.js";
import { initModel } from "../models/index.js";
import { createOptimizer, memoryPlan, nextToken, sgd } from "./index.js";
import { arena, arenaBytes, plannedBuffers } from "./memory-arena.js";

const SHAPE = { batch: 4, length: 128 };

async function midModel(validation = false) {
  const base = initModel({
    model_type: "llama",
    vocab_size: 4000,
    hidden_size: 256,
    intermediate_size: 768,
    num_hidden_layers: 4,
    num_attention_heads: 4,
  });
  const model = await adapt(base, lora({ targets: "all-linear" }));
  const ids = Int32Array.from({ length: 128 }, (_, at) => at);
  const row = { indices: [0], tokens: 128, examples: [{ ids, lossMask: new Uint8Array(128).fill(1, 1) }] };
  const held = validation ? { validation: [row] } : {};
  return nextToken(model, { batchSize: 4, lengths: [128], padId: 0, ...held });
}

interface Report {
  readonly peak: number;
  readonly grown: number;
  readonly predicted: number;
  readonly plan: { readonly total: number };
}

/** A training run in a process of its own, so that its peak is that run's. */
const measured = (run: Record<string, unknown>): Report =>
  JSON.parse(
    execFileSync(process.execPath, ["scripts/run-ts.mjs", "bench/ours/memory-run.ts", JSON.stringify(run)], {
      encoding: "utf8",
      cwd: new URL("../../", import.meta.url),
    }),
  );

const shipped = { model: "assets/default-model", batch: 4, length: 128 };
const layers = [
  { type: "conv", name: "a", out: 64, kernel: 3, padding: 1 },
  { type: "activation", function: "relu" },
  { type: "conv", name: "b", out: 64, kernel: 3, padding: 1 },
  { type: "global_mean" },
  { type: "linear", name: "c", out: 3 },
];
const images = { task: "images", batch: 32, length: 32 };

// Larger models: bench/memory.ts. Most of what a small run takes is the process itself, so its growth is looked at too.
test.each([
  ["adapter", shipped],
  ["adapter, recomputed", { ...shipped, batch: 8, length: 256, recompute: true }],
  ["full fine-tuning with early stopping", { ...shipped, method: "full", patience: 2 }],
  ["convolutions", { ...images, config: { model_type: "conv_net", image: [3, 32, 32], layers } }],
])("the planned peak lies within 15 %% of the measured one: %s", { timeout: 60_000 }, (_, run) => {
  const { peak, grown, predicted, plan } = measured(run);
  expect(Math.abs(predicted / peak - 1)).toBeLessThan(0.15);
  expect(Math.abs(plan.total / grown - 1)).toBeLessThan(0.3);
});

test("the plan counts every part", async () => {
  const objective = await midModel();
  const plan = memoryPlan(objective, SHAPE);
  const trained = [...objective.model.parameters.values()].filter(({ trainable }) => trainable);
  const bytes = trained.reduce((sum, { tensor }) => sum + 4 * tensor.data.length, 0);
  expect(plan).toMatchObject({ gradients: bytes, optimizer: 2 * bytes, evaluation: 0, best: 0 });
  const { total: _, inUse, peak, ...parts } = plan;
  expect(Object.values(parts).reduce((a, b) => a + b, 0)).toBe(plan.total);
  expect(peak).toBe(Number(inUse) + plan.total);
  const more = memoryPlan(await midModel(true), SHAPE, {
    keepsBest: true,
    accumulate: 2,
    prefixCacheBytes: 1e6,
  });
  expect(more).toMatchObject({ gradients: 2 * bytes, best: bytes, prefixCache: 1e6 });
  expect(more.evaluation).toBeGreaterThan(0);
  expect(memoryPlan(objective, SHAPE, { optimizer: sgd({ lr: 1 }) }).optimizer).toBe(0);
  const eight = createOptimizer("adamw", { stateBits: 8 });
  expect(memoryPlan(objective, SHAPE, { optimizer: eight }).optimizer).toBeLessThan(0.6 * bytes);
});

test("recomputation takes less, of more blocks the more; repacked weights take more", async () => {
  const objective = await midModel();
  const inside = [0, 1, 2, 3, 4].map((recompute) => memoryPlan(objective, SHAPE, { recompute }).activations);
  expect(inside.toSorted((a, b) => b - a)).toEqual(inside);
  expect(inside[4]).toBe(memoryPlan(objective, SHAPE, { recompute: true }).activations);
  expect(inside[4]).toBeLessThan(0.6 * Number(inside[0]));
  const [packed, mapped] = [true, false].map((prepack) =>
    memoryPlan(objective, SHAPE, { session: { prepack } }),
  );
  // Matrices of four layers and the head, in two orders each; the embedding and the head's rows of labels are read where they lie.
  const matrices = 4 * (4000 * 256 + 4 * (4 * 256 ** 2 + 3 * 256 * 768));
  expect(packed?.packed).toBeGreaterThan(1.9 * matrices);
  expect(packed?.weights).toBeLessThan(2.1 * 4 * 4000 * 256);
  expect(mapped?.packed).toBe(0);
  expect(mapped?.weights).toBeGreaterThan(matrices);
});

test("buffers pass from dead values to later ones of the same shape", () => {
  const x = input("x", "float32", [256]);
  const [once, twice] = [ops.mul(x, 2), ops.mul(ops.mul(ops.mul(x, 2), 3), 4)];
  const bytes = (y: typeof x) =>
    plannedBuffers(makeGraph("g", [x], [["y", y]])).map((buffer) => buffer.bytes);
  expect(bytes(once)).toEqual([1024]);
  // The last product is what is returned, and gets memory of its own.
  expect(bytes(twice)).toEqual([1024, 1024, 1024]);
  expect(bytes(ops.mul(ops.mul(twice, 5), 6))).toEqual([1024, 1024, 1024]);
  // A unary kernel writes over its operand.
  expect(bytes(ops.mul(ops.exp(ops.mul(x, 2)), 2))).toEqual([1024, 1024]);
});

test("the arena splits chunks, joins them again and counts what was used", () => {
  const { allocate, free, touched } = arena();
  const [a, b] = [allocate(1000), allocate(2000)];
  expect(touched()).toBe(1024 + 2048);
  free(a);
  free(b);
  allocate(3072);
  expect(touched()).toBe(3072);
  // The next region has 8 MB, not twice what is asked for, and goes out whole.
  allocate(5 * 2 ** 20);
  expect(touched()).toBe(3072 + 8 * 2 ** 20);
  const buffers = [0, 1, 2].map((at) => ({ bytes: 1024, from: at, to: at + 1 }));
  expect(arenaBytes(buffers)).toBe(2048);
});
