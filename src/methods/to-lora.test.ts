import { expect, test } from "vitest";
import {
  type Adaptation,
  adalora,
  adapt,
  boft,
  dynamicDora,
  elalora,
  hra,
  kadaptation,
  lora,
  orthogonalAdaptation,
  psoft,
  setScale,
  toLora,
  vera,
} from "./index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "./testing/fixtures.js";

const targets = ["q_proj", "down_proj"];

test.each([
  hra({ rank: 4, targets }),
  psoft({ rank: 4, targets }),
  orthogonalAdaptation({ rank: 4, conceptId: "cat", scale: 0.7, targets }),
  kadaptation({ summands: 4, ownBias: false, scale: 3, targets }),
  vera({ rank: 4, targets }),
  adalora({ initRank: 3, targets }),
  elalora({ rank: 2, targets }),
  dynamicDora({ rank: 2, targets }),
] as unknown as Adaptation[])("$method.name as LoRA is the same", async (adaptation) => {
  const below = randomise(
    await adapt(await baseModel("llama"), lora({ rank: 2, targets }), { name: "below" }),
  );
  const model = randomise(await adapt(below, adaptation, { name: "own" }), 2, 0.1);
  setScale(model, "own", 0.6);
  const converted = await toLora(model);
  expect(converted.adapters.get("own")?.adaptation.method.name).toBe("lora");
  const expected = await probeLogits(model);
  expect(relativeDifference(expected, await probeLogits(below))).toBeGreaterThan(1e-3);
  expect(relativeDifference(await probeLogits(converted), expected)).toBeLessThan(1e-5);
});

test("what LoRA cannot say is refused", async () => {
  const base = await baseModel("llama");
  for (const adaptation of [
    boft({ targets }),
    hra({ rank: 4, targets, trainableTokens: [1] }),
    kadaptation({ summands: 4, targets }),
  ] as unknown as Adaptation[])
    await expect(toLora(await adapt(base, adaptation))).rejects.toMatchObject({ code: "target-unsupported" });
});

test("components that do nothing are dropped", async () => {
  const model = randomise(await adapt(await baseModel("llama"), elalora({ rank: 3, targets })), 2, 0.1);
  for (const site of model.adapters.get("default")?.sites.values() ?? []) {
    const e = site.tensors.lora_E?.tensor.data as Float32Array;
    if (site.shape.path.includes("layers.0")) e.fill(0);
    else e.fill(0, 1);
  }
  const converted = await toLora(model);
  const ranks = [...(converted.adapters.get("default")?.sites.values() ?? [])].map(
    ({ tensors }) => tensors.lora_A?.tensor.shape[0],
  );
  expect(ranks).toEqual([1, 1]);
  expect(relativeDifference(await probeLogits(converted), await probeLogits(model))).toBeLessThan(1e-5);
});
