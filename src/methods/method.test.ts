import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { z } from "zod";
import { packExamples } from "../data/index.js";
import { ops, type Value } from "../graph/index.js";
import { maxAbsDiff } from "../tensor/index.js";
import { adamw, train } from "../training/index.js";
import {
  adapt,
  loadAdapter,
  lora,
  type Method,
  merge,
  receiptOf,
  type SiteConfig,
  saveAdapter,
  setActive,
  setScale,
  siteConfigSchema,
} from "./index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "./testing/fixtures.js";

const schema = siteConfigSchema.extend({ start: z.number().default(1) });
type Config = z.infer<typeof schema>;

/** W' = l ∘ W, one number per output: a whole method, as the recipe in method.ts describes it. */
const rowScale: Method<Config> = {
  name: "row-scale",
  summary: "one learned factor per output",
  paper: "2205.05638",
  schema,
  kinds: ["linear"],
  tensors: (site, config) => ({
    l: {
      shape: [site.outFeatures],
      trainable: true,
      init: () => new Float32Array(site.outFeatures).fill(config.start),
    },
  }),
  weight: (weight, { l }) => ops.mul(weight, ops.unsqueeze(l as Value, 1)),
  forward({ y, bias, gate, tensors: { l } }) {
    const product = bias ? ops.sub(y, bias) : y;
    return ops.add(y, ops.mul(ops.sub(ops.mul(product, l as Value), product), gate));
  },
};

test.each(["gpt2", "llama"])(
  "%s: a method of a few lines is switched, scaled, stacked and merged",
  async (name) => {
    const base = await baseModel(name);
    const plain = await probeLogits(base);
    const config = schema.parse({ targets: "all-linear" });
    const model = await adapt(base, { method: rowScale, config }, { name: "scale" });
    expect((await receiptOf(model)).sitesChanged).toBe(0);
    expect(relativeDifference(await probeLogits(model), plain)).toBeLessThan(1e-6);
    const stacked = randomise(await adapt(model, lora({ rank: 2 }), { name: "lora" }));
    setScale(stacked, "scale", 0.5);
    const merged = await merge(stacked);
    expect(merged.receipt.method).toBe("row-scale+lora");
    expect(relativeDifference(await probeLogits(merged), await probeLogits(stacked))).toBeLessThan(1e-5);
    expect(maxAbsDiff(await probeLogits(setActive(stacked, [])), plain)).toBe(0);
  },
);

test("a method that PEFT does not have is not written as LoRA, and read back by its own name only", async () => {
  const config = schema.parse({ start: 2 });
  const base = await baseModel("llama");
  const model = await adapt(base, { method: rowScale, config });
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-own-"));
  await saveAdapter(model, folder);
  const written = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")) as object;
  expect(written).toMatchObject({ peft_type: "TUNESMITH", method: "row-scale", options: { start: 2 } });
  await expect(loadAdapter(base, folder)).rejects.toMatchObject({ code: "adapter-invalid" });
  const loaded = await loadAdapter(base, folder, { methods: [rowScale as unknown as Method<SiteConfig>] });
  expect((await probeLogits(loaded)).data).toEqual((await probeLogits(model)).data);
});

test("a method refuses sites that it cannot adapt", async () => {
  const config = schema.parse({ targets: ["embed_tokens"] });
  await expect(adapt(await baseModel("llama"), { method: rowScale, config })).rejects.toMatchObject({
    code: "target-unsupported",
    message: expect.stringContaining("model.embed_tokens"),
  });
});

test("an embedding takes no bias, as in PEFT", async () => {
  const config = { loraBias: true, targets: ["embed_tokens", "v_proj"] };
  await expect(adapt(await baseModel("llama"), lora(config))).rejects.toMatchObject({
    code: "config-invalid",
    message: expect.stringContaining("model.embed_tokens"),
  });
});

test("dropout follows the seed of the run", async () => {
  const base = await baseModel("llama");
  const losses = async (seed: number, dropout: number) => {
    const model = await adapt(base, lora({ rank: 2, dropout, init: "orthogonal" }));
    const seen: number[] = [];
    const ids = Int32Array.from({ length: 8 }, (_, at) => (at * 5) % 60);
    await train(model, {
      train: packExamples([{ ids, lossMask: new Uint8Array(8).fill(1, 1) }], { length: 8, strategy: "none" }),
      batchSize: 1,
      lengths: [8],
      steps: 3,
      padId: 0,
      optimizer: adamw({ lr: 1e-2 }),
      seed,
      session: { threads: 1 },
      onEvent: (event) => {
        if (event.type === "step") seen.push(event.loss);
      },
    });
    return seen;
  };
  expect(await losses(1, 0.5)).toEqual(await losses(1, 0.5));
  expect(await losses(1, 0.5)).not.toEqual(await losses(2, 0.5));
  expect(await losses(1, 0)).toEqual(await losses(2, 0));
});
