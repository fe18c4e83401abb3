import { cpSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { generate, staticInputs } from "../../models/index.js";
import { gemm, type Matrix, svd } from "../../runtime/linalg/index.js";
import { rng } from "../../runtime/random/index.js";
import { nextToken } from "../../training/index.js";
import {
  type AdaptedLm,
  adapt,
  arrow,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
  setActive,
  setScale,
  talliesOf,
  vera,
} from "../index.js";
import {
  baseModel,
  fixture,
  probeLogits,
  randomise,
  relativeDifference,
  smallModel,
} from "../testing/fixtures.js";
import { iteratedDirection, mainDirection } from "./prototype.js";

const base = smallModel();
const NAMES = ["one", "two", "three"];
const folder = () => mkdtempSync(join(tmpdir(), "tunesmith-arrow-"));

/** Three experts of one rank. */
async function withExperts(): Promise<AdaptedLm> {
  let model: AdaptedLm | undefined;
  for (const [at, name] of NAMES.entries())
    model = await adapt(model ?? base, lora({ rank: 3, alpha: 4 + at, targets: ["q_proj", "down_proj"] }), {
      name,
    });
  return randomise(model as AdaptedLm, 4, 0.3);
}
const expertsOf = ({ adapters }: AdaptedLm) => [...adapters.values()];

test("directions are the first right singular vectors, and PEFT's steps tend to them", () => {
  const [rank, inn, out] = [3, 20, 9];
  const random = (rows: number, cols: number, key: string): Matrix => ({
    rows,
    cols,
    data: rng(1, key).fillNormal(new Float32Array(rows * cols)),
  });
  const [a, b] = [random(rank, inn, "a"), random(out, rank, "b")];
  const change = gemm(b, a);
  const { s } = svd(change);
  const stretch = (data: Float64Array) => Math.hypot(...gemm(change, { rows: inn, cols: 1, data }).data);
  for (const direction of [mainDirection(a, b), iteratedDirection(a, b, 7)])
    expect(Math.hypot(...direction)).toBeCloseTo(1, 6);
  expect(stretch(mainDirection(a, b)) / Number(s[0])).toBeCloseTo(1, 6);
  const near = stretch(iteratedDirection(a, b, 7)) / Number(s[0]);
  expect(near).toBeGreaterThan(0.98);
  expect(near).toBeLessThan(1 - 1e-12);
  const none: Matrix = { ...b, data: new Float32Array(out * rank) };
  expect([...mainDirection(a, none), ...iteratedDirection(a, none, 7)].every((value) => value === 0)).toBe(
    true,
  );
});

test("one expert is that expert; equal experts are one; all of them at a high temperature are their mean", async () => {
  const experts = await withExperts();
  const [one] = expertsOf(experts);
  if (!one) throw new Error("no expert");
  const alone = await probeLogits(setActive(experts, ["one"]));
  for (const given of [[one], [one, one, one, one]])
    expect(relativeDifference(await probeLogits(await arrow(base, { experts: given })), alone)).toBeLessThan(
      1e-5,
    );
  const model = await arrow(base, { experts: expertsOf(experts), temperature: 1e6 });
  for (const name of NAMES) setScale(experts, name, 1 / 3);
  const mean = await probeLogits(experts);
  expect(relativeDifference(await probeLogits(model), mean)).toBeLessThan(1e-4);
  expect(relativeDifference(mean, alone)).toBeGreaterThan(1e-2);
  setScale(model, "default", 0);
  expect(relativeDifference(await probeLogits(model), await probeLogits(base))).toBeLessThan(1e-6);
  await expect(merge(model)).rejects.toMatchObject({ code: "not-mergeable" });
});

test("adapters of general knowledge are taken off: what they share with experts does nothing", async () => {
  const experts = await withExperts();
  const [one, two] = expertsOf(experts);
  if (!one || !two) throw new Error("no experts");
  const model = await arrow(base, { experts: [one, one], general: [one] });
  expect(relativeDifference(await probeLogits(model), await probeLogits(base))).toBeLessThan(1e-6);
  const other = await arrow(base, { experts: [one, two], general: [one] });
  expect(relativeDifference(await probeLogits(other), await probeLogits(base))).toBeGreaterThan(1e-2);
});

test("nothing is trained, experts stay as they are, tokens are counted, texts come with a cache", async () => {
  const experts = expertsOf(await withExperts());
  const numbers = () =>
    experts.flatMap(({ sites }) =>
      [...sites.values()].flatMap(({ tensors }) =>
        Object.values(tensors).flatMap(({ tensor }) => [...(tensor.data as Float32Array)]),
      ),
    );
  const before = numbers();
  const model = await arrow(base, { experts, topK: 2 });
  expect([...model.parameters.values()].some(({ trainable }) => trainable)).toBe(false);
  expect(numbers()).toEqual(before);
  const packs = packExamples(
    [0, 1].map((row) => ({
      ids: Int32Array.from({ length: 8 }, (_, at) => 3 + row + 5 * at),
      lossMask: new Uint8Array(8).fill(1, 1),
    })),
    { length: 8, strategy: "none" },
  );
  const plan = { batchSize: 2, lengths: [8], padId: 0, train: packs, validation: packs };
  for (const counted of (await talliesOf(nextToken(model, plan), { batches: 1 })).values())
    expect(counted.reduce((sum, value) => sum + value, 0)).toBeCloseTo(16, 4);
  const { present } = model.build(staticInputs(1, 4));
  expect(present.length).toBe(2);
  expect((await generate(model, [3, 4], { maxTokens: 4, stopIds: [] })).ids.length).toBe(4);
});

test("a folder has the experts in it, and reads as PEFT's side by side too", async () => {
  const experts = expertsOf(await withExperts());
  const model = await arrow(base, { experts: experts.slice(0, 2), general: experts.slice(2), topK: 5 });
  const expected = await probeLogits(model);
  const own = join(folder(), "arrow");
  await saveAdapter(model, own);
  const loaded = await loadAdapter(base, own);
  expect(relativeDifference(await probeLogits(loaded), expected)).toBeLessThan(1e-5);
  expect(loaded.adapters.get("default")?.adaptation.config).toMatchObject({ topK: 2, temperature: 1 });
  const aside = folder();
  for (const name of ["task_0", "task_1", "gks_0"])
    cpSync(join(own, name), join(aside, name), { recursive: true });
  mkdirSync(join(aside, "arrow_router"));
  for (const file of ["adapter_config.json", "adapter_model.safetensors"])
    cpSync(join(own, file), join(aside, "arrow_router", file));
  const beside = await loadAdapter(base, aside, { name: "arrow_router" });
  expect(relativeDifference(await probeLogits(beside), expected)).toBeLessThan(1e-5);
  const turned = await loadAdapter(base, own, {
    experts: ["task_1", "task_0", "gks_0"].map((name) => join(own, name)),
  });
  expect(relativeDifference(await probeLogits(turned), expected)).toBeLessThan(1e-5);
});

test("experts that are not alike, or no plain LoRA, are refused by name", async () => {
  const experts = expertsOf(await withExperts());
  const odd = async (adaptation: Parameters<typeof adapt>[1]) =>
    expertsOf(randomise((await adapt(base, adaptation, { name: "odd" })) as AdaptedLm));
  for (const adaptation of [
    lora({ rank: 2, targets: ["q_proj", "down_proj"] }),
    lora({ rank: 3, targets: ["q_proj"] }),
    lora({ rank: 3, targets: ["q_proj", "down_proj", "embed_tokens"] }),
    lora({ rank: 3, targets: ["q_proj", "down_proj"], dora: true }),
    vera({ rank: 3, targets: ["q_proj", "down_proj"] }),
  ] as unknown as Parameters<typeof adapt>[1][])
    await expect(arrow(base, { experts: [...experts, ...(await odd(adaptation))] })).rejects.toMatchObject({
      code: "adapter-invalid",
      message: expect.stringContaining("'odd' cannot be an expert of Arrow"),
    });
  await expect(arrow(base, { experts: [] })).rejects.toMatchObject({ code: "config-invalid" });
  await expect(arrow(base, { experts, topK: 0 })).rejects.toMatchObject({ code: "config-invalid" });
});

test("made of PEFT's experts with PEFT's seed, it is PEFT's", async () => {
  const llama = await baseModel("llama");
  const own = fixture("peft/llama-arrow");
  const experts = [0, 1, 2, 3].map((at) => join(own, `task_${at}`));
  const seeded = await arrow(llama, { experts, topK: 2, temperature: 0.7, rngSeed: 5 });
  const loaded = await loadAdapter(llama, own);
  expect(relativeDifference(await probeLogits(seeded), await probeLogits(loaded))).toBeLessThan(1e-6);
});
