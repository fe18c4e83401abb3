import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadModel, runModel, type TensorModel } from "../../models/index.js";
import { maxAbsDiff, openSafetensors, type Tensor } from "../../tensor/index.js";
import {
  adapt,
  beft,
  bitfit,
  lnTuning,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
  setScale,
  trainedNumbers,
} from "../index.js";
import { baseModel, fixture, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";

/** Numbers in the base tensors whose name matches. */
const numbersIn = (model: { weights: ReadonlyMap<string, { shape: readonly unknown[] }> }, name: RegExp) =>
  [...model.weights]
    .filter(([key]) => name.test(key))
    .reduce((sum, [, { shape }]) => sum + (shape as number[]).reduce((a, b) => a * b, 1), 0);

test("they train every norm, or every bias, or those that are named", async () => {
  const [gpt2, llama] = [await baseModel("gpt2"), await baseModel("llama")];
  const count = (model: typeof gpt2, adaptation: Parameters<typeof adapt>[1]) => {
    const found = trainedNumbers(model, adaptation);
    return adapt(model, adaptation).then(({ parameters }) => {
      const made = [...parameters.values()].filter(({ trainable }) => trainable);
      expect(made.reduce((sum, { tensor }) => sum + tensor.data.length, 0)).toBe(found);
      return found;
    });
  };
  expect(await count(gpt2, lnTuning())).toBe(numbersIn(gpt2, /ln_/));
  expect(await count(llama, lnTuning())).toBe(numbersIn(llama, /norm/));
  expect(await count(llama, lnTuning({ exclude: ["norm"], layers: [1] }))).toBe(
    numbersIn(llama, /1\..*norm/),
  );
  expect(await count(llama, lnTuning({ targets: ["k_proj"] }))).toBe(numbersIn(llama, /k_proj/));
  expect(await count(gpt2, bitfit())).toBe(numbersIn(gpt2, /bias$/));
  expect(await count(gpt2, bitfit({ targets: "all-linear" }))).toBe(
    numbersIn(gpt2, /(attn|c_fc|c_proj)\.bias$/),
  );
  expect(await count(gpt2, bitfit({ targets: ["c_attn", "ln_f"] }))).toBe(
    numbersIn(gpt2, /(c_attn|ln_f)\.bias$/),
  );
  // Asked for twice, a bias is one.
  expect(await count(gpt2, bitfit({ bias: "all" }))).toBe(numbersIn(gpt2, /bias$/));
  expect(await count(llama, beft())).toBe(numbersIn(llama, /v_proj/) / 24);
});

test("what is not there is refused", async () => {
  const llama = await baseModel("llama");
  await expect(adapt(llama, bitfit())).rejects.toMatchObject({ code: "target-not-found" });
  const misspelt = adapt(llama, lnTuning({ targets: ["input_layernom"] }));
  await expect(misspelt).rejects.toThrow(/input_layernorm/);
});

test.each(["llama", "gemma2"])(
  "%s: two blended halves are between, and lora beside them does its part",
  async (name) => {
    const base = await baseModel(name);
    const plain = await probeLogits(base);
    const one = randomise(await adapt(base, lnTuning(), { name: "one" }), 1, 0.1);
    const two = randomise(await adapt(base, lnTuning(), { name: "two" }), 2, 0.1);
    // The same change twice by halves is that change.
    const both = await adapt(one, lnTuning(), { name: "again" });
    expect(relativeDifference(await probeLogits(both), await probeLogits(one))).toBeLessThan(1e-6);
    for (const { path, leaf, parameter } of both.adapters.get("again")?.saved ?? [])
      (parameter.tensor.data as Float32Array).set(
        one.parameters.get(`one/${path}.${leaf}`)?.tensor.data as Float32Array,
      );
    setScale(both, "one", 0.5);
    setScale(both, "again", 0.5);
    const halves = await probeLogits(both);
    setScale(one, "one", 1);
    expect(relativeDifference(halves, await probeLogits(one))).toBeLessThan(1e-5);
    expect(relativeDifference(halves, plain)).toBeGreaterThan(1e-3);
    expect(relativeDifference(halves, await probeLogits(two))).toBeGreaterThan(1e-3);
    const stacked = randomise(await adapt(one, lora({ rank: 2 }), { name: "lora" }), 3);
    const logits = await probeLogits(stacked);
    expect(relativeDifference(await probeLogits(await merge(stacked)), logits)).toBeLessThan(1e-5);
  },
);

test("a model whose files have other names than the reference's memory: saved and loaded", async () => {
  const base = (await loadModel(fixture("vision/vit"), { task: "auto" })) as TensorModel;
  const file = await openSafetensors(fixture("vision/vit/expected.safetensors"));
  const name = [...file.entries.keys()].find((key) => key.includes("pixel_values")) as string;
  const inputs = { pixel_values: await file.read(name) };
  const output = async (model: TensorModel) =>
    Object.values((await runModel(model, inputs)) as Record<string, Tensor>)[0] as Tensor;
  for (const adaptation of [lnTuning({ targets: ["layernorm_before"] }), lnTuning(), bitfit()]) {
    const model = randomise(await adapt(base, adaptation), 1, 0.1);
    const folder = mkdtempSync(join(tmpdir(), "tunesmith-whole-"));
    await saveAdapter(model, folder);
    const again = await output(await loadAdapter(base, folder));
    expect(maxAbsDiff(again, await output(model))).toBeLessThan(1e-5);
    expect(maxAbsDiff(again, await output(base))).toBeGreaterThan(1e-3);
  }
});
