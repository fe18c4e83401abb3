import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { adamw, fit, nextToken, scheduleFreeAdamw } from "../../training/index.js";
import {
  applyMethod,
  diffora,
  type GateEvent,
  loadAdapter,
  type ModuleSearchOptions,
  merge,
  saveAdapter,
  searchModules,
  selectModules,
  toLora,
} from "../index.js";
import { probeLogits, relativeDifference, smallModel } from "../testing/fixtures.js";

const base = smallModel();
const rowsOf = (first: number) =>
  packExamples(
    [0, 1, 2, 3].map((row) => ({
      ids: Int32Array.from({ length: 8 }, (_, at) => (first + 5 * row + 3 * at) % 64),
      lossMask: new Uint8Array(8).fill(1, 1),
    })),
    { length: 8, strategy: "none" },
  );
const PLAN = { batchSize: 4, lengths: [8], padId: 0 };
const session = { threads: 1, worker: false } as const;
const how: ModuleSearchOptions<typeof base> = {
  objective: (model, half) => nextToken(model, { ...PLAN, train: rowsOf(half === "updates" ? 0 : 1) }),
  steps: 4,
  optimizer: adamw({ lr: 1e-2 }),
  session,
};
const targets = ["q_proj", "v_proj", "down_proj"];

test("the largest gates of each layer, or of all, are kept; a table has holes where a layer lacks a kind", () => {
  const gates = new Map([
    ["h.0.q", 0.2],
    ["h.0.v", 0.9],
    ["h.1.q", 0.8],
    ["h.1.v", 0.8],
    ["h.1.up", 0.7],
  ]);
  const found = selectModules(gates, { fraction: 0.5, scope: "layer" });
  expect(found).toEqual({
    layers: ["h.0", "h.1"],
    kinds: ["q", "v", "up"],
    table: [
      [0, 1, null],
      [1, 1, 0],
    ],
    gates: [
      [0.2, 0.9, null],
      [0.8, 0.8, 0.7],
    ],
    selected: ["h.0.v", "h.1.q", "h.1.v"],
  });
  expect(selectModules(gates, { fraction: 1, perLayer: 1, scope: "layer" }).selected).toEqual([
    "h.0.v",
    "h.1.q",
  ]);
  expect(selectModules(gates, { fraction: 1, perLayer: 2, scope: "global" }).selected).toEqual([
    "h.0.v",
    "h.1.q",
    "h.1.v",
    "h.1.up",
  ]);
  expect(() => selectModules(gates, { fraction: 1, perLayer: 3, scope: "layer" })).toThrow(
    /h.0.q is one of 2/,
  );
});

test("what is left is LoRA that PEFT reads, with its modules by name", async () => {
  const events: GateEvent[] = [];
  const { model, table } = await searchModules(
    base,
    diffora({ rank: 2, perLayer: 1, targets, relax: "softmax" }),
    {
      ...how,
      onGates: (event) => void events.push(event),
    },
  );
  expect(events.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
  const row = [...(events.at(-1)?.gates ?? [])].filter(([path]) => path.includes("layers.0"));
  expect(row.reduce((sum, [, gate]) => sum + gate, 0)).toBeCloseTo(3, 5);
  expect(table.selected).toHaveLength(2);
  await fit(nextToken(model, { ...PLAN, train: rowsOf(0) }), {
    steps: 3,
    optimizer: adamw({ lr: 1e-2 }),
    session,
  });
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-diffora-"));
  await saveAdapter(model, folder);
  const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
  expect(config).toMatchObject({ peft_type: "LORA", r: 2, target_modules: table.selected });
  expect(
    relativeDifference(await probeLogits(await loadAdapter(base, folder)), await probeLogits(model)),
  ).toBeLessThan(1e-5);
});

test("a warm start has the search's updates, a cold one LoRA's start", async () => {
  const search = (warmStart: boolean) => searchModules(base, diffora({ rank: 2, targets, warmStart }), how);
  const [warm, cold] = [await search(true), await search(false)];
  const [path = ""] = warm.table.selected;
  expect(cold.table).toEqual(warm.table);
  const b = ({ model, relaxed }: typeof warm) =>
    [model, relaxed].map((each) => each.parameters.get(`default/${path}.lora_B`)?.tensor.data);
  expect(b(warm)[0]).toEqual(b(warm)[1]);
  expect((b(cold)[0] as Float32Array).every((value) => value === 0)).toBe(true);
  expect((b(cold)[1] as Float32Array).some((value) => value !== 0)).toBe(true);
});

test("shared updates: one pair per kind, merged, saved, and as LoRA", async () => {
  const { model, table } = await searchModules(
    base,
    diffora({ rank: 2, perLayer: 1, targets, unselected: "shared" }),
    how,
  );
  const names = [...model.parameters.keys()].filter((name) => name.includes("lora_A"));
  const others = new Set(table.table.flatMap((row) => table.kinds.filter((_, at) => row[at] === 0)));
  expect(names).toHaveLength(2 + others.size);
  await fit(nextToken(model, { ...PLAN, train: rowsOf(0) }), {
    steps: 5,
    optimizer: adamw({ lr: 1e-2 }),
    session,
  });
  const logits = await probeLogits(model);
  expect(relativeDifference(logits, await probeLogits(base))).toBeGreaterThan(1e-3);
  expect(relativeDifference(await probeLogits(await merge(model)), logits)).toBeLessThan(1e-4);
  expect(relativeDifference(await probeLogits(await toLora(model)), logits)).toBeLessThan(1e-4);
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-diffora-"));
  await saveAdapter(model, folder);
  expect(relativeDifference(await probeLogits(await loadAdapter(base, folder)), logits)).toBeLessThan(1e-5);
});

test("modules of an earlier search are taken as they are; nothing is left to search then", async () => {
  const selected = ["model.layers.1.mlp.down_proj"];
  const model = await applyMethod(base, "diffora", { rank: 2, selected });
  expect([...model.parameters.keys()].filter((name) => name.includes("lora_"))).toEqual([
    "default/model.layers.1.mlp.down_proj.lora_A",
    "default/model.layers.1.mlp.down_proj.lora_B",
  ]);
  await expect(searchModules(base, diffora({ selected }), how)).rejects.toThrow(/selected already/);
  await expect(searchModules(base, diffora({ targets, perLayer: 4 }), how)).rejects.toThrow(
    /one of 3 candidates/,
  );
  const aborted = AbortSignal.abort();
  await expect(searchModules(base, diffora({ targets }), { ...how, signal: aborted })).rejects.toMatchObject({
    code: "cancelled",
  });
});

test("a search that was stopped goes on where it was, bit for bit; with other settings it is refused", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "tunesmith-diffora-"));
  const make = (more: Partial<typeof how> = {}, options: Parameters<typeof diffora>[0] = {}) =>
    searchModules(base, diffora({ rank: 2, targets, order: 2, dropout: 0.2, warmStart: true, ...options }), {
      ...how,
      steps: 5,
      optimizer: scheduleFreeAdamw({ lr: 1e-2 }),
      ...more,
    });
  const numbers = ({ relaxed, model, table }: Awaited<ReturnType<typeof make>>) => ({
    table,
    tensors: [relaxed, model].map(({ parameters }) =>
      [...parameters].map(([name, { tensor }]) => [name, tensor.data]),
    ),
  });
  const whole = numbers(await make());
  const controller = new AbortController();
  const kept = { runDir, saveEvery: 4, resume: true } as const;
  const seen: number[] = [];
  const stopped = make({
    ...kept,
    signal: controller.signal,
    onGates: ({ step }) => step === 3 && controller.abort(),
  });
  await expect(stopped).rejects.toMatchObject({ code: "cancelled", details: { step: 3 } });
  await expect(make(kept, { gateLr: 0.1 })).rejects.toMatchObject({ code: "checkpoint-mismatch" });
  await expect(make({ ...kept, config: { data: "other" } })).rejects.toMatchObject({
    code: "checkpoint-mismatch",
  });
  const resumed = await make({ ...kept, onGates: ({ step }) => void seen.push(step) });
  expect(seen).toEqual([4, 5]);
  expect(numbers(resumed)).toEqual(whole);
  // Done, it gives what it found.
  expect(numbers(await make({ ...kept, onGates: ({ step }) => void seen.push(step) }))).toEqual(whole);
  expect(seen).toEqual([4, 5]);
});
