import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type CausalLm, initModel, loadModel, probeOutputs, saveModel, sitesOf } from "../../models/index.js";
import { maxAbsDiff } from "../../tensor/index.js";
import { orientedWeight } from "../adapter.js";
import { baseModel, largestGap, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";
import { isMpoModel, type MpoModel, mpoMerge, mpoModel } from "./model.js";

const tiny = (layers: number) =>
  initModel(
    {
      model_type: "llama",
      vocab_size: 64,
      hidden_size: 64,
      intermediate_size: 64,
      num_hidden_layers: layers,
      num_attention_heads: 2,
      initializer_range: 0.3,
    },
    { seed: 2 },
  );
const CHAIN = { cores: 3 } as const;

const trained = (model: MpoModel): number =>
  [...model.parameters.values()].reduce(
    (sum, each) => sum + (each.trainable ? each.tensor.data.length : 0),
    0,
  );

/** Weights `[out, in]` of a plain model, by path. */
async function weightsOf(model: CausalLm): Promise<Map<string, Float32Array>> {
  const sites = sitesOf(probeOutputs(model)).filter(({ kind, isHead }) => kind === "linear" && !isHead);
  const read = sites.map(async (site) => [site.path, await orientedWeight(site)] as const);
  return new Map(await Promise.all(read));
}

test("without sharing the start is the base, in either orientation", async () => {
  for (const name of ["llama", "gpt2"]) {
    const base = await baseModel(name);
    const model = await mpoModel(base, { ...CHAIN, share: "none" });
    expect(isMpoModel(model)).toBe(true);
    expect(model.chains.startError).toBeLessThan(1e-6);
    expect(relativeDifference(await probeLogits(model), await probeLogits(base))).toBeLessThan(1e-5);
  }
});

test("twelve layers of 64 × 64 cost 4096 + 12 · 512 numbers for each kind of map", async () => {
  const model = await mpoModel(tiny(12), { ...CHAIN, rounds: 0 });
  expect(model.chains.groups).toHaveLength(7);
  expect(model.chains.numbers).toBe(7 * (4096 + 12 * 512));
  expect(model.chains.denseNumbers).toBe(7 * 12 * 4096);
  expect(trained(model)).toBe(model.chains.numbers + 64 * 64 * 2 + 64 * (2 * 12 + 1));
  const light = await mpoModel(tiny(2), { ...CHAIN, train: "aux", adapterRank: 2 });
  expect(trained(light)).toBe(7 * 2 * (512 + 2 * 128));
  const central = await mpoModel(tiny(2), { ...CHAIN, train: "central" });
  expect(trained(central)).toBe(7 * 4096);
});

test("the central tensor moves every layer, the others their own; V alone does nothing until it moves", async () => {
  const model = await mpoModel(tiny(3), { ...CHAIN, adapterRank: 1, rounds: 1, targets: ["q_proj"] });
  const start = await weightsOf(await mpoMerge(model));
  const changed = async (name: string) => {
    const data = model.parameters.get(name)?.tensor.data as Float32Array;
    const kept = data.slice();
    data[3] = Number(data[3]) + 0.5;
    const now = await weightsOf(await mpoMerge(model));
    data.set(kept);
    return [...now].flatMap(([path, weight]) =>
      largestGap(weight, start.get(path) ?? []) > 0 ? [path] : [],
    );
  };
  const [group] = model.chains.groups;
  const paths = group?.maps.map(({ path }) => path) as string[];
  expect(paths).toHaveLength(3);
  expect(await changed(group?.central as string)).toEqual(paths);
  expect(await changed("mpo/model.layers.1.self_attn.q_proj.T1")).toEqual([paths[1]]);
  expect(await changed("mpo/model.layers.2.self_attn.q_proj.T3")).toEqual([paths[2]]);
  expect(await changed("mpo/model.layers.0.self_attn.q_proj.V")).toEqual([paths[0]]);
  expect(await changed("mpo/model.layers.0.self_attn.q_proj.U")).toEqual([]);
});

test("what the report says a shared start misses is what it misses, and less with more rounds and groups", async () => {
  const base = tiny(3);
  const before = await weightsOf(base);
  const miss = async (options: { rounds?: number; groups?: number }) => {
    const model = await mpoModel(base, { ...CHAIN, ...options });
    const after = await weightsOf(await mpoMerge(model));
    let [missed, size] = [0, 0];
    for (const [path, weight] of before)
      weight.forEach((value, at) => {
        missed += (value - Number(after.get(path)?.[at])) ** 2;
        size += value ** 2;
      });
    expect(model.chains.startError).toBeCloseTo(Math.sqrt(missed / size), 5);
    return model.chains.startError;
  };
  const [none, some] = [await miss({ rounds: 0 }), await miss({ rounds: 20 })];
  expect(some).toBeLessThan(none);
  // Random layers have little in common, and the report does not hide it.
  expect(some).toBeGreaterThan(0.3);
  expect(await miss({ groups: 3 })).toBeLessThan(1e-6);
});

test("deepened by copies, layers share exactly; merged, it is saved and loads again", async () => {
  const base = tiny(2);
  const model = await mpoModel(base, { ...CHAIN, depth: 6, groups: 2 });
  expect(model.chains.startError).toBeLessThan(1e-6);
  expect(model.sizes.layers).toBe(6);
  expect(model.chains.numbers).toBe(7 * (2 * 4096 + 6 * 512));
  const still = await mpoModel(base, { ...CHAIN, depth: 6, groups: 2, copyScale: 0 });
  expect(relativeDifference(await probeLogits(still), await probeLogits(base))).toBeLessThan(1e-4);
  randomise(model, 1, 0.02);
  const logits = await probeLogits(model);
  const merged = await mpoMerge(model);
  expect(isMpoModel(merged)).toBe(false);
  expect(relativeDifference(await probeLogits(merged), logits)).toBeLessThan(1e-4);
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-mpo-"));
  await saveModel({ ...merged, tokenizer: undefined }, folder);
  const loaded = await loadModel(folder);
  expect(loaded.sizes.layers).toBe(6);
  expect(maxAbsDiff(await probeLogits(loaded), await probeLogits(merged))).toBe(0);
});

test("compression keeps the largest parts, and says how much is lost", async () => {
  const base = tiny(2);
  const sizes: number[] = [];
  const errors: number[] = [];
  for (const truncate of [16, 12, 6]) {
    const { chains } = await mpoModel(base, { ...CHAIN, share: "none", truncate });
    sizes.push(chains.numbers);
    errors.push(chains.startError);
  }
  expect(sizes).toEqual([16, 12, 6].map((d) => 14 * (2 * 16 * d + 16 * d * d)));
  expect(errors[0]).toBeLessThan(1e-6);
  expect(errors[1]).toBeGreaterThan(0.05);
  expect(errors[2]).toBeGreaterThan(Number(errors[1]));
});

test("what has no chains is not merged, and codes make no chains", async () => {
  await expect(mpoMerge(tiny(1))).rejects.toMatchObject({ code: "adapter-invalid" });
  const { quantizeModel } = await import("../../models/index.js");
  const codes = await quantizeModel(tiny(1), "int8");
  await expect(mpoModel(codes, CHAIN)).rejects.toMatchObject({ code: "target-unsupported" });
  await expect(mpoModel(tiny(1), { cores: 4 })).rejects.toMatchObject({ code: "config-invalid" });
});
