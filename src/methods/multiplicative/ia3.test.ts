import { expect, test } from "vitest";
import { adapt, ia3, lora, merge } from "../index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";

test("scales the bias an adapter below it left, also merged", async () => {
  const targets = ["c_attn", "mlp.c_proj"];
  const below = randomise(
    await adapt(await baseModel("gpt2"), lora({ rank: 2, loraBias: true, targets }), { name: "below" }),
  );
  const plain = await probeLogits(below);
  const both = randomise(await adapt(below, ia3({ targets }), { name: "above" }));
  const live = await probeLogits(both);
  expect(relativeDifference(live, plain)).toBeGreaterThan(1e-2);
  expect(relativeDifference(await probeLogits(await merge(both)), live)).toBeLessThan(1e-5);
});

test("feed-forward modules are named by endings or by an expression", () => {
  const site = {
    path: "h.0.mlp.c_proj",
    kind: "linear",
    inFeatures: 6,
    outFeatures: 4,
    hasBias: true,
  } as const;
  const keys = (feedforward: string | string[]) => {
    const { method, config } = ia3({ feedforward });
    return Object.entries(method.tensors(site, config)).map(([key, { shape }]) => `${key} ${shape}`);
  };
  expect(keys(["mlp.c_proj"])).toEqual(["ia3_l_inputs 6"]);
  expect(keys(["proj"])).toEqual(["ia3_l_inputs 6"]);
  expect(keys(".*c_proj")).toEqual(["ia3_l_inputs 6"]);
  expect(keys("c_proj")).toEqual(["ia3_l 4"]);
});
