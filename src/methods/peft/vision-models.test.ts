import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadModel, runModel, type TensorModel } from "../../models/index.js";
import { maxAbsDiff, openSafetensors, readTensor, type Tensor } from "../../tensor/index.js";
import { adapt, loadAdapter, lora, merge, saveAdapter } from "../index.js";
import { fixture, randomise } from "../testing/fixtures.js";

const GROUPED = "mobilenet-depthwise";
const cases = readdirSync(fixture("vision-peft")).filter((name) => name !== GROUPED);

const baseOf = (name: string) => {
  const base = readFileSync(fixture(`vision-peft/${name}/base.txt`), "utf8").trim();
  return loadModel(fixture(`vision/${base}`), { task: "image-classification" });
};

async function expectedOf(name: string): Promise<Record<string, Tensor>> {
  const file = await openSafetensors(fixture(`vision-peft/${name}/expected.safetensors`));
  const result: Record<string, Tensor> = {};
  for (const key of file.entries.keys()) result[key] = await file.read(key);
  await file.close();
  return result;
}

const largest = ({ data }: Tensor) => Math.max(...Array.from(data as Float32Array, Math.abs));

describe.each(cases)("%s", (name) => {
  test("outputs and merged weights equal PEFT's, also saved and loaded again", async () => {
    const base = await baseOf(name);
    const { pixel_values, logits, ...merged } = await expectedOf(name);
    const difference = async (model: TensorModel) => {
      const outputs = await runModel(model, { pixel_values: pixel_values as Tensor });
      return maxAbsDiff(outputs.logits as Tensor, logits as Tensor) / largest(logits as Tensor);
    };
    expect(await difference(base)).toBeGreaterThan(1e-2);
    const adapted = await loadAdapter(base, fixture(`vision-peft/${name}`));
    expect(await difference(adapted)).toBeLessThan(1e-4);
    const folder = join(mkdtempSync(join(tmpdir(), "tunesmith-vision-peft-")), "adapter");
    await saveAdapter(adapted, folder);
    expect(await difference(await loadAdapter(base, folder))).toBeLessThan(1e-4);

    const model = await merge(adapted);
    expect(await difference(model)).toBeLessThan(1e-4);
    expect(Object.keys(merged).length).toBeGreaterThan(1);
    for (const [key, expected] of Object.entries(merged)) {
      const source = model.weights.get(key.slice("merged.".length))?.source;
      if (source?.kind !== "constant") throw new Error(`${key} is no weight of the merged model`);
      const gap = maxAbsDiff(await readTensor(source.data), expected);
      expect(gap / largest(expected), key).toBeLessThan(1e-5);
    }
  });
});

test("names in memory and in files name the same modules", async () => {
  const folder = join(mkdtempSync(join(tmpdir(), "tunesmith-vision-peft-")), "adapter");
  const base = await baseOf("vit");
  const model = randomise(
    await adapt(base, lora({ rank: 2, targets: ["query"], rankPattern: { "layer.1.*query": 3 } })),
  );
  await saveAdapter(model, folder);
  const file = await openSafetensors(join(folder, "adapter_model.safetensors"));
  expect([...file.entries].map(([name, { shape }]) => `${name} ${shape}`)).toContain(
    "base_model.model.vit.layers.1.attention.q_proj.lora_A.weight 3,16",
  );
  const again = await loadAdapter(base, folder);
  const { pixel_values } = await expectedOf("vit");
  const [one, other] = await Promise.all(
    [model, again].map((adapted) => runModel(adapted, { pixel_values: pixel_values as Tensor })),
  );
  expect(maxAbsDiff(one?.logits as Tensor, other?.logits as Tensor)).toBe(0);
});

test("convolutions in groups are adapted here, and refused from and for PEFT, whose update is another", async () => {
  const base = await baseOf(GROUPED);
  await expect(loadAdapter(base, fixture(`vision-peft/${GROUPED}`))).rejects.toThrow(
    /mixes channels across groups/,
  );
  const model = randomise(await adapt(base, lora({ rank: 2, targets: ["conv_3x3.convolution"] })));
  const folder = join(mkdtempSync(join(tmpdir(), "tunesmith-vision-peft-")), "adapter");
  await expect(saveAdapter(model, folder)).rejects.toThrow(/mixes channels across groups/);
  const { pixel_values } = await expectedOf(GROUPED);
  const given = { pixel_values: pixel_values as Tensor };
  const live = (await runModel(model, given)).logits as Tensor;
  const merged = (await runModel(await merge(model), given)).logits as Tensor;
  expect(maxAbsDiff(live, merged) / largest(live)).toBeLessThan(1e-5);
  expect(maxAbsDiff(live, (await runModel(base, given)).logits as Tensor)).toBeGreaterThan(1e-3);
});
