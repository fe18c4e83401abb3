import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ops } from "../graph/index.js";
import { readTensor, toFloat32 } from "../tensor/index.js";
import {
  type AdaptedLm,
  adapt,
  formatReceipt,
  loadAdapter,
  lora,
  merge,
  type Receipt,
  receiptOf,
  saveAdapter,
  setActive,
  setScale,
} from "./index.js";
import { baseModel, probeLogits, randomise } from "./testing/fixtures.js";

const folder = () => join(mkdtempSync(join(tmpdir(), "tunesmith-receipt-")), "adapter");
const trained = async (name = "llama", options: Parameters<typeof lora>[0] = {}) =>
  randomise(await adapt(await baseModel(name), lora({ rank: 2, ...options })));

const weightOf = async (model: Pick<AdaptedLm, "weights">, name: string): Promise<Float32Array> => {
  const value = model.weights.get(name);
  if (value?.source.kind !== "constant") throw new Error(`no ${name}`);
  return toFloat32(await readTensor(value.source.data));
};

test("counts, norms and logits are what plain arithmetic gives", async () => {
  const model = await trained();
  const receipt = await receiptOf(model);
  expect(receipt).toMatchObject({
    action: "adapt",
    adapter: "default",
    method: "lora",
    sitesMatched: 4,
    sitesChanged: 4,
  });
  expect(receipt.trainableParameters).toBe(2 * 2 * (24 + 24) + 2 * 2 * (24 + 12));
  const merged = await merge(model);
  let total = 0;
  for (const { path, tensor, changeNorm, relativeChange } of receipt.sites) {
    const [before, after] = [
      await weightOf(model.base, `${path}.${tensor}`),
      await weightOf(merged, `${path}.${tensor}`),
    ];
    const norm = Math.hypot(...after.map((value, at) => value - Number(before[at])));
    expect(changeNorm / norm).toBeCloseTo(1, 4);
    expect(Number(relativeChange)).toBeCloseTo(norm / Math.hypot(...before), 4);
    total += norm ** 2;
  }
  expect(receipt.changeNorm / Math.sqrt(total)).toBeCloseTo(1, 4);
  const base = [...model.base.weights.values()].reduce(
    (sum, { shape }) => sum + (shape as number[]).reduce((a, b) => a * b, 1),
    0,
  );
  expect(receipt.totalParameters).toBe(base + receipt.trainableParameters);
  expect(receipt.logits.before).not.toBe(receipt.logits.after);
  expect(receipt.logits.maxDifference).toBeGreaterThan(0.01);
  expect(JSON.parse(JSON.stringify(receipt))).toEqual(receipt);
});

test("every kind of change is counted: biases, modules trained whole, token rows", async () => {
  const receipt = await receiptOf(
    await trained("gpt2", {
      bias: "adapted",
      loraBias: true,
      modulesToSave: ["ln_f"],
      trainableTokens: [1, 2],
    }),
  );
  const touched = receipt.sites.map(({ path, tensor }) => `${path}.${tensor}`);
  for (const name of [
    "transformer.wte.weight",
    "transformer.h.0.attn.c_attn.weight",
    "transformer.h.0.attn.c_attn.bias",
    "transformer.ln_f.weight",
    "transformer.ln_f.bias",
    "lm_head.weight",
  ])
    expect(touched).toContain(name);
  expect(receipt.sites.every(({ changeNorm }) => changeNorm > 0)).toBe(true);
  expect(receipt.sitesChanged).toBe(receipt.sitesMatched);
});

test("a fresh adapter changes nothing, and says so", async () => {
  for (const init of ["default", "pissa", "olora"] as const) {
    const receipt = await receiptOf(await adapt(await baseModel("gpt2"), lora({ rank: 2, init })));
    expect(receipt, init).toMatchObject({ sitesMatched: 2, sitesChanged: 0, changeNorm: 0 });
    expect(receipt.logits.maxDifference).toBeLessThan(1e-4);
  }
});

test("saving, loading and merging return receipts that agree", async () => {
  const model = await trained();
  const path = folder();
  const saved = await saveAdapter(model, path);
  const loaded = await loadAdapter(model.base, path);
  const merged = await merge(loaded);
  expect([saved.action, loaded.receipt.action, merged.receipt.action]).toEqual(["save", "load", "merge"]);
  const same = ({ sites, logits, baseFingerprint, trainableParameters }: Receipt) => ({
    sites,
    logits,
    baseFingerprint,
    trainableParameters,
  });
  expect(same(loaded.receipt)).toEqual(same(saved));
  expect(merged.receipt.sites).toEqual(saved.sites);
  expect(merged.receipt.logits.before).toBe(saved.logits.before);
  expect(merged.receipt.baseFingerprint).toBe(saved.baseFingerprint);
});

test("an adapter that changes nothing is neither saved, loaded nor merged unless that is allowed", async () => {
  const model = await adapt(await baseModel("llama"), lora({ rank: 2 }));
  const path = folder();
  await expect(saveAdapter(model, path)).rejects.toMatchObject({ code: "adapter-no-effect" });
  expect(existsSync(path)).toBe(false);
  await saveAdapter(model, path, { allowNoEffect: true });
  await expect(loadAdapter(model.base, path)).rejects.toMatchObject({ code: "adapter-no-effect" });
  expect((await loadAdapter(model.base, path, { allowNoEffect: true })).receipt.sitesChanged).toBe(0);
  await expect(merge(model)).rejects.toMatchObject({ code: "adapter-no-effect" });
  expect((await merge(model, { allowNoEffect: true })).receipt.changeNorm).toBe(0);
});

test("the momentary scale does not decide what a file holds", async () => {
  const model = await trained();
  const full = await receiptOf(model);
  setScale(model, "default", 0);
  expect((await receiptOf(model)).sitesChanged).toBe(0);
  expect((await saveAdapter(model, folder())).sites).toEqual(full.sites);
});

test("numbers that are not finite are refused by name", async () => {
  const model = await trained();
  const path = folder();
  const name = "default/model.layers.1.self_attn.v_proj.lora_B";
  const data = model.parameters.get(name)?.tensor.data as Float32Array;
  data[5] = Number.NaN;
  for (const attempt of [() => saveAdapter(model, path), () => merge(model), () => receiptOf(model)])
    await expect(attempt()).rejects.toThrow(/layers\.1\.self_attn\.v_proj\.lora_B' is NaN at index 5/);
  data.fill(3e38);
  await expect(receiptOf(model)).rejects.toMatchObject({ code: "adapter-invalid" });
});

test("a merge that does not give the adapted logits is refused", async () => {
  const { method, config } = lora({ rank: 2 });
  const wrong = {
    ...method,
    weight: (...[weight]: Parameters<typeof method.weight>) => ops.mul(weight, 1.01),
  };
  const model = randomise(await adapt(await baseModel("llama"), { method: wrong, config }));
  await expect(merge(model)).rejects.toMatchObject({ code: "numerical-failure" });
});

test("a stack: each receipt speaks of its own adapter, logits count from those below", async () => {
  const first = await trained();
  const both = randomise(await adapt(first, lora({ rank: 3, targets: ["k_proj"] }), { name: "second" }), 4);
  const receipt = await receiptOf(both);
  expect(receipt.adapter).toBe("second");
  expect(receipt.sites.map(({ path }) => path)).toEqual(
    [0, 1].map((layer) => `model.layers.${layer}.self_attn.k_proj`),
  );
  expect(receipt.logits.before).toBe((await receiptOf(setActive(both, ["default"]))).logits.after);
  const merged = await merge(both);
  expect(merged.receipt.adapter).toBe("default+second");
  expect(merged.receipt.sitesMatched).toBe(6);
  expect((await probeLogits(merged)).shape).toEqual((await probeLogits(both)).shape);
  await expect(receiptOf(both, { adapter: "third" })).rejects.toMatchObject({ code: "adapter-invalid" });
});

test("the text names action, modules, parameters, change and warnings", async () => {
  const receipt = await receiptOf(await trained(), { action: "load", warnings: ["another tokenizer"] });
  const text = formatReceipt(receipt);
  for (const part of [
    /^load 'default' \(lora\): 4 of 4 modules/,
    /336 trainable of/,
    /Frobenius/,
    /->/,
    /warning\s+another tokenizer/,
  ])
    expect(text).toMatch(part);
});
