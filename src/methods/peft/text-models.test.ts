import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadModel, runModel, saveModel, type TensorModel } from "../../models/index.js";
import { maxAbsDiff, openSafetensors, type Tensor } from "../../tensor/index.js";
import { loadAdapter, merge, saveAdapter } from "../index.js";
import { fixture } from "../testing/fixtures.js";

const load = (path: string) => loadModel(path, { task: "auto" }) as Promise<TensorModel>;

async function expectedOf(name: string) {
  const file = await openSafetensors(fixture(`text-models-peft/${name}/expected.safetensors`));
  const inputs: Record<string, Tensor> = {};
  for (const key of file.entries.keys()) {
    if (key.startsWith("input.")) inputs[key.slice(6)] = await file.read(key);
  }
  return { inputs, logits: await file.read("logits") };
}

test.each(["bert-classes", "roberta-classes", "t5"])(
  "%s: PEFT's folder gives PEFT's outputs, live, merged, saved and loaded again",
  async (name) => {
    const base = await load(fixture(`text-models/${name}`));
    const { inputs, logits } = await expectedOf(name);
    const difference = async (model: TensorModel) =>
      maxAbsDiff((await runModel(model, inputs)).logits as Tensor, logits);
    expect(await difference(base)).toBeGreaterThan(0.01);
    const adapted = await loadAdapter(base, fixture(`text-models-peft/${name}`));
    expect(await difference(adapted)).toBeLessThan(1e-4);
    const folder = mkdtempSync(join(tmpdir(), "tunesmith-text-peft-"));
    await saveAdapter(adapted, join(folder, "adapter"));
    expect(await difference(await loadAdapter(base, join(folder, "adapter")))).toBeLessThan(1e-4);
    const model = await merge(adapted);
    expect(await difference(model)).toBeLessThan(1e-4);
    await saveModel(model, join(folder, "merged"));
    expect(await difference(await load(join(folder, "merged")))).toBeLessThan(1e-4);
  },
);
