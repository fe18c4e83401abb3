import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { type CausalLm, exportOnnx, loadOnnxLm } from "../../models/index.js";
import { maxAbsDiff, openSafetensors } from "../../tensor/index.js";
import { nextToken } from "../../training/index.js";
import {
  type AdaptedLm,
  adapt,
  applyMethod,
  calibrate,
  loadAdapter,
  loadPeft,
  lora,
  lqLora,
  merge,
  saveAdapter,
  setActive,
} from "../index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-lq-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SMALL = { rank: 4, alpha: 8, targets: "all-linear" } as const;
const THREE = { ...SMALL, bits: 3, blockSize: 16 } as const;

test.each(["gpt2", "llama"])(
  "%s: starts nearer to the given model than its quantised part, which is its base",
  async (name) => {
    const base = await baseModel(name);
    const model = await lqLora(base, THREE);
    const [floats, start] = [await probeLogits(base), await probeLogits(model)];
    const off = await probeLogits(setActive(model, []));
    expect(relativeDifference(start, floats)).toBeGreaterThan(0);
    expect(relativeDifference(start, floats)).toBeLessThan(0.7 * relativeDifference(off, floats));
    expect(model.base.quantization?.base).toBe(base);
    expect(model.decomposition.bitsPerWeight).toBeLessThan(4.1);
    const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
    const sites = [...(model.adapters.get("default")?.sites.values() ?? [])];
    expect(trained.reduce((sum, each) => sum + each.tensor.data.length, 0)).toBe(
      sites.reduce((sum, { shape }) => sum + 4 * (shape.inFeatures + shape.outFeatures), 0),
    );
    const kept = 8 * Number(model.quantization?.keptBytes);
    const weights = Number(model.quantization?.floatBytes) / 4;
    expect(kept / weights, "what is counted is what is kept").toBeCloseTo(
      model.decomposition.bitsPerWeight,
      6,
    );
  },
);

test("a budget is kept, and spends more bits where they pay", async () => {
  const base = await baseModel("llama");
  const errors: number[] = [];
  for (const budgetBits of [2.9, 3.5, 4.8]) {
    const targets = ["q_proj", "up_proj", "down_proj"];
    const { decomposition } = await lqLora(base, { ...SMALL, targets, budgetBits });
    expect(decomposition.bitsPerWeight).toBeLessThanOrEqual(budgetBits);
    expect(decomposition.bitsPerWeight).toBeGreaterThan(budgetBits - 0.3);
    expect(decomposition.allocation?.exact).toBe(true);
    expect(decomposition.allocation?.bound).toBeLessThanOrEqual(Number(decomposition.allocation?.cost));
    errors.push(decomposition.sites.reduce((sum, { error }) => sum + error ** 2, 0));
  }
  expect(errors).toEqual(errors.toSorted((a, b) => b - a));
  await expect(lqLora(base, { ...SMALL, budgetBits: 1.5 })).rejects.toThrow(/smallest layouts take/);
});

test("saved, the folder brings the quantised weights along, whatever the floats would be quantised to", async () => {
  const base = await baseModel("llama");
  const model = randomise(
    await lqLora(base, { ...SMALL, targets: ["up_proj", "q_proj"], budgetBits: 3.2 }),
    1,
    0.05,
  ) as AdaptedLm;
  const home = join(folder, "saved");
  await saveAdapter(model, home);
  const again = await loadAdapter(base, home);
  expect(maxAbsDiff(await probeLogits(again), await probeLogits(model))).toBe(0);
  const off = (each: AdaptedLm) => probeLogits(setActive(each, []));
  expect(maxAbsDiff(await off(again), await off(model))).toBe(0);
  expect(again.base.quantization?.own).toBe(model.base.quantization?.own);
  expect(again.base.quantization?.sites.get("model.layers.0.mlp.up_proj")?.settings).toEqual(
    model.base.quantization?.sites.get("model.layers.0.mlp.up_proj")?.settings,
  );
  // Onto the base it made, a second time under another name.
  const twice = await loadAdapter(again, home, { name: "again" });
  expect(twice.base).toBe(again.base);
  // The adapter alone, on floats or on others' codes, would be nonsense.
  await expect(loadPeft(base, home)).rejects.toMatchObject({ code: "wrong-base" });
  const other = await lqLora(base, { ...SMALL, bits: 4, blockSize: 16 });
  await expect(loadAdapter(other, home, { name: "b" })).rejects.toMatchObject({ code: "wrong-base" });
  const tuned = await adapt(base, lora({ rank: 2 }), { name: "first" });
  await expect(loadAdapter(tuned, home)).rejects.toThrow(/other adapters are on the model/);
  await expect(loadAdapter(await baseModel("gpt2"), home, { anyBase: true })).rejects.toMatchObject({
    code: "wrong-base",
  });
});

test("a damaged file of quantised weights is refused", async () => {
  const base = await baseModel("llama");
  const home = join(folder, "damaged");
  await saveAdapter(await lqLora(base, THREE), home);
  const path = join(home, "quantized_base.safetensors");
  const file = await openSafetensors(path);
  const codes = file.entries.get("model.layers.0.mlp.up_proj.codes");
  await file.close();
  const bytes = readFileSync(path);
  bytes[Number(codes?.offset)] = Number(bytes[Number(codes?.offset)]) ^ 1;
  writeFileSync(path, bytes);
  await expect(loadAdapter(base, home)).rejects.toMatchObject({ code: "file-corrupt" });
  copyFileSync(join(home, "adapter_model.safetensors"), path);
  await expect(loadAdapter(base, home)).rejects.toMatchObject({ code: "file-corrupt" });
});

test("merges as other quantised bases do", async () => {
  const base = await baseModel("llama");
  const model = randomise(await lqLora(base, THREE), 1, 0.05) as AdaptedLm;
  const apart = await probeLogits(model);
  await expect(merge(model)).rejects.toMatchObject({ code: "quantized-base" });
  const floats = await merge(model, { quantized: "dequantize" });
  expect(floats.quantization).toBeUndefined();
  expect(relativeDifference(await probeLogits(floats), apart)).toBeLessThan(1e-5);
  const kept = await merge(model, { quantized: "keep" });
  const { files } = await exportOnnx(kept, join(folder, "kept"), { variants: ["fp16"] });
  const logitsIn = async (name: string) =>
    probeLogits(await loadOnnxLm(files.find((path) => path.endsWith(name)) ?? ""));
  expect(relativeDifference(await logitsIn("model.onnx"), apart)).toBeLessThan(1e-5);
  expect(relativeDifference(await logitsIn("model_fp16.onnx"), apart)).toBeLessThan(0.02);
  const rounded = await merge(model, { quantized: "requantize" });
  expect(rounded.receipt.quantized?.logitError).toBeGreaterThan(0);
});

const examples = [0, 1, 2].map((row) => ({
  ids: Int32Array.from({ length: 8 }, (_, at) => (row * 13 + at * at * 7 + 3) % 60),
  lossMask: new Uint8Array(8).fill(1, 1),
}));

test("Fisher information comes from calibration, and changes the split", async () => {
  const base = (await baseModel("llama")) as CausalLm;
  await expect(lqLora(base, { ...THREE, fisher: true })).rejects.toMatchObject({
    code: "calibration-missing",
  });
  const objective = nextToken(base, {
    ...{ train: packExamples(examples, { length: 8, strategy: "none" }) },
    ...{ batchSize: 1, lengths: [8], padId: 0 },
  });
  const calibration = await calibrate(objective, { statistics: ["gradientSquare"], batches: 3 });
  const aware = await lqLora(base, { ...THREE, fisher: true }, { calibration });
  const plain = await lqLora(base, THREE);
  expect(aware.quantization?.own).not.toBe(plain.quantization?.own);
});

test("what would do nothing, or cannot be, is refused by name", async () => {
  const base = await baseModel("llama");
  const refused = async (options: Parameters<typeof lqLora>[1], expected: RegExp) =>
    expect(lqLora(base, { ...SMALL, ...options })).rejects.toThrow(expected);
  await refused({ bits: 3, budgetBits: 3 }, /both bits and budgetBits/);
  await refused({ blockSize: 16 }, /blockSize does nothing without bits/);
  await refused({ bits: 5 }, /bits is 5/);
  await refused({ rank: 4096 }, /exceeds what/);
  await refused({ targets: ["embed_tokens"] }, /cannot adapt .*embedding/);
  const model = await lqLora(base, THREE);
  await expect(lqLora(model as never, THREE)).rejects.toThrow(/quantised already|has adapters/);
  await expect(
    adapt(base, {
      method: model.adapters.get("default")?.adaptation.method as never,
      config: THREE as never,
    }),
  ).rejects.toThrow(/decomposition of its weight/);
});

test("by name, as the command line makes it", async () => {
  const model = await applyMethod(await baseModel("llama"), "lq-lora", { ...THREE });
  expect(model.quantization?.settings).toMatchObject({ kind: "nf", bits: 3, blockSize: 16 });
});
