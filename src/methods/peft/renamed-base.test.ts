import { copyFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadModel, type Model } from "../../models/index.js";
import { loadAll, openSafetensors, writeSafetensors } from "../../tensor/index.js";
import { adapt, loadAdapter, lora, saveAdapter } from "../index.js";

const FIXTURES = new URL("../../../fixtures/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "tunesmith-renamed-"));

async function savedAndLoaded(base: Model, name: string) {
  const model = await adapt(base, lora({ rank: 2, init: "gaussian" }));
  for (const {
    name: tensor,
    tensor: { data },
  } of model.parameters.values())
    if (tensor.endsWith("lora_B")) (data as Float32Array).fill(0.1);
  const saved = await saveAdapter(model, join(folder, name));
  const { receipt } = await loadAdapter(base, join(folder, name));
  expect(receipt.logits.after).toBe(saved.logits.after);
  return receipt.sitesChanged;
}

test("an adapter on a checkpoint of the bare body, as GPT-2's is on the hub", async () => {
  const from = join(FIXTURES, "models/gpt2");
  const file = await openSafetensors(join(from, "model.safetensors"));
  const tensors = await loadAll({ tensors: file.entries });
  await file.close();
  const bare = [...tensors].map(([name, value]) => [name.replace(/^transformer\./, ""), value] as const);
  await writeSafetensors(join(folder, "model.safetensors"), bare);
  copyFileSync(join(from, "config.json"), join(folder, "config.json"));
  expect(await savedAndLoaded(await loadModel(folder), "bare")).toBeGreaterThan(0);
});

test("an adapter on the body of a model with a head", async () => {
  const base = await loadModel(join(FIXTURES, "text-models/bert-classes"), { task: "embedding" });
  expect(await savedAndLoaded(base, "body")).toBeGreaterThan(0);
});
