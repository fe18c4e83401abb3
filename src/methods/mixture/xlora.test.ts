import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { generate, logitsOf, probeIds } from "../../models/index.js";
import { maxAbsDiff, openSafetensors, writeSafetensors } from "../../tensor/index.js";
import { createStepper, nextToken, nextTokenBatches } from "../../training/index.js";
import {
  type AdaptedLm,
  adapt,
  applyMethod,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
  setActive,
  setScale,
  talliesOf,
  vera,
  xlora,
} from "../index.js";
import {
  baseModel,
  fixture,
  probeLogits,
  randomise,
  relativeDifference,
  smallModel,
} from "../testing/fixtures.js";

const base = smallModel();
const folder = () => mkdtempSync(join(tmpdir(), "tunesmith-xlora-"));

/** Two adapters of other modules, ranks and scales. */
async function withExperts(): Promise<AdaptedLm> {
  const one = await adapt(base, lora({ rank: 3, alpha: 5, targets: ["q_proj", "down_proj"] }), {
    name: "one",
  });
  const two = await adapt(one, lora({ rank: 2, targets: ["embed_tokens", "q_proj"] }), { name: "two" });
  return randomise(two, 4, 0.3);
}
const expertsOf = ({ adapters }: AdaptedLm) => [...adapters.values()];

const PLAN = { batchSize: 2, lengths: [8], padId: 0 };
const rows = [0, 1].map((row) => ({
  ids: Int32Array.from(probeIds(40, 8), (id) => (id + row) % 40),
  lossMask: new Uint8Array(8).fill(1, 1),
}));
const packs = packExamples(rows, { length: 8, strategy: "none" });

/** Classifier tensors of an adapter. */
const classifierOf = (model: AdaptedLm) =>
  [...model.parameters.values()].filter(({ name }) => name.includes("classifier"));

test("a classifier of zeros gives the mean of the experts, and its bias chooses one", async () => {
  const experts = await withExperts();
  const model = await xlora(base, { experts: expertsOf(experts) });
  for (const { tensor } of classifierOf(model)) (tensor.data as Float32Array).fill(0);
  for (const name of ["one", "two"]) setScale(experts, name, 0.5);
  const mean = await probeLogits(experts);
  expect(relativeDifference(await probeLogits(model), mean)).toBeLessThan(1e-5);
  const [bias] = classifierOf(model).filter(({ name }) => name.endsWith("bias"));
  if (!bias) throw new Error("no bias");
  (bias.tensor.data as Float32Array).set([-50, 50]);
  for (const name of ["one", "two"]) setScale(experts, name, 1);
  const second = await probeLogits(setActive(experts, ["two"]));
  expect(relativeDifference(await probeLogits(model), second)).toBeLessThan(1e-5);
  expect(relativeDifference(second, mean)).toBeGreaterThan(1e-2);
  setScale(model, "default", 0);
  expect(relativeDifference(await probeLogits(model), await probeLogits(base))).toBeLessThan(1e-6);
  await expect(merge(model)).rejects.toMatchObject({ code: "not-mergeable" });
});

test("only the classifier is trained, through recomputed blocks too, and weights are counted", async () => {
  const model = await xlora(
    base,
    { experts: expertsOf(await withExperts()), depth: 2, width: 6, layerwise: true, dropout: 0 },
    { seed: 3 },
  );
  const objective = nextToken(model, { ...PLAN, train: packs });
  const [batch] = [...nextTokenBatches(packs, PLAN)];
  if (!batch) throw new Error("no batch");
  const gradients = async (recompute: boolean) => {
    const stepper = createStepper(objective, { recompute, session: { threads: 1 } });
    try {
      return (await stepper.run(batch, batch.count, [1])).gradients;
    } finally {
      await stepper.close();
    }
  };
  const [plain, again] = [await gradients(false), await gradients(true)];
  expect([...plain.keys()].toSorted()).toEqual(
    [0, 2].flatMap((at) => ["bias", "weight"].map((part) => `default/classifier.layers.${at}.${part}`)),
  );
  for (const [name, gradient] of plain) {
    expect(
      gradient.some((value) => value !== 0),
      name,
    ).toBe(true);
    const other = again.get(name) as Float32Array;
    for (const [at, value] of gradient.entries()) expect(other[at]).toBeCloseTo(value, 6);
  }
  const tallies = await talliesOf(objective, { batches: 1 });
  const sums = tallies.get("default/model.layers.0.self_attn.q_proj/weights") as Float64Array;
  expect(sums.length).toBe(2);
  expect(sums.reduce((a, b) => a + b)).toBeCloseTo(16, 4);
});

test("texts are generated as whole rows say, without a cache", async () => {
  const model = await xlora(base, { experts: expertsOf(await withExperts()) }, { seed: 5 });
  const prompt = [3, 17, 40];
  const { ids } = await generate(model, prompt, { maxTokens: 4, stopIds: [] });
  const row = [...prompt];
  for (const id of ids) {
    const { data, shape } = await logitsOf(model, row);
    const last = (data as Float32Array).slice(-Number(shape[1]));
    expect(id).toBe(last.indexOf(Math.max(...last)));
    row.push(id);
  }
  expect(ids.length).toBe(4);
});

test("experts that are trained too are copies, and are written as they are", async () => {
  const experts = await withExperts();
  const before = await probeLogits(experts);
  const model = randomise(
    await xlora(base, { experts: expertsOf(experts), trainExperts: true, topK: 1 }),
    6,
    0.1,
  );
  expect(maxAbsDiff(await probeLogits(experts), before)).toBe(0);
  const out = folder();
  await saveAdapter(model, out);
  const loaded = await loadAdapter(base, out);
  expect(relativeDifference(await probeLogits(loaded), await probeLogits(model))).toBeLessThan(1e-5);
  const expert = await loadAdapter(base, join(out, "0"));
  expect(
    relativeDifference(await probeLogits(expert), await probeLogits(setActive(experts, ["one"]))),
  ).toBeGreaterThan(1e-3);
});

test("its experts' folders are options of the method, and may be given anew", async () => {
  const experts = await withExperts();
  const folders = [folder(), folder()];
  for (const [at, name] of ["one", "two"].entries())
    await saveAdapter(experts, folders[at] as string, { name });
  const model = await applyMethod(base, "xlora", { experts: folders, layerwise: true }, { seed: 1 });
  const logits = await probeLogits(model);
  const out = folder();
  await saveAdapter(model as AdaptedLm, out);
  rmSync(join(out, "0"), { recursive: true });
  // What its folder lacks is read where the experts came from.
  expect(relativeDifference(await probeLogits(await loadAdapter(base, out)), logits)).toBeLessThan(1e-5);
  const swapped = await loadAdapter(base, out, { experts: folders.toReversed() });
  expect(relativeDifference(await probeLogits(swapped), logits)).toBeGreaterThan(1e-3);
});

test("what cannot be an expert, and files that lack tensors, are named", async () => {
  const dora = randomise(await adapt(base, lora({ rank: 2, dora: true, targets: ["q_proj"] })));
  await expect(xlora(base, { experts: expertsOf(dora) })).rejects.toThrow(/lora_magnitude_vector/);
  const other = await adapt(base, vera({ rank: 4, targets: ["q_proj"] }));
  await expect(xlora(base, { experts: expertsOf(other) })).rejects.toThrow(/it is of vera/);
  const whole = await adapt(base, lora({ rank: 2, targets: ["q_proj"], modulesToSave: ["lm_head"] }));
  await expect(xlora(base, { experts: expertsOf(whole) })).rejects.toThrow(/whole/);
  await expect(xlora(base, { experts: [] })).rejects.toMatchObject({ code: "config-invalid" });
  // PEFT 0.21 leaves out what has an expert's number in its name.
  const broken = folder();
  cpSync(fixture("peft/llama-xlora"), broken, { recursive: true });
  const file = await openSafetensors(join(broken, "adapter_model.safetensors"));
  const kept = [...file.entries.keys()].filter((name) => !name.includes(".0."));
  const tensors = new Map(
    await Promise.all(kept.map(async (name) => [name, await file.read(name)] as const)),
  );
  await file.close();
  await writeSafetensors(join(broken, "adapter_model.safetensors"), tensors, {});
  await expect(loadAdapter(await baseModel("llama"), broken)).rejects.toThrow(
    /layers\.0\.weight' is missing/,
  );
});
