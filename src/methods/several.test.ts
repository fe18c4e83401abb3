import { describe, expect, test } from "vitest";
import { maxAbsDiff, readTensor, type Tensor, toFloat32 } from "../tensor/index.js";
import { adamw, loraPlusGroups } from "../training/index.js";
import { adapt, lora, merge, setActive, setScale, unload } from "./index.js";
import { baseModel, largestGap, probeLogits, randomise, relativeDifference } from "./testing/fixtures.js";

const two = async (options: Parameters<typeof lora>[0] = {}) => {
  const base = await baseModel("gpt2");
  const one = await adapt(base, lora({ rank: 2, targets: ["c_attn", "c_fc"], ...options }), { name: "one" });
  const both = await adapt(one, lora({ rank: 3, targets: ["c_attn"], ...options }), { name: "two", seed: 5 });
  return { base, both: randomise(both) };
};

const weight = async (model: Awaited<ReturnType<typeof baseModel>>): Promise<Float32Array> => {
  const value = model.weights.get("transformer.h.0.attn.c_attn.weight");
  if (value?.source.kind !== "constant") throw new Error("no weight");
  return toFloat32(await readTensor(value.source.data));
};

const gap = (a: Tensor, b: Tensor) => relativeDifference(a, b);

test("adapters stack, switch and come off", async () => {
  const { base, both } = await two();
  expect([...both.adapters.keys()]).toEqual(["one", "two"]);
  expect(both.active).toEqual(["one", "two"]);
  const [plain, all] = [await probeLogits(base), await probeLogits(both)];
  const only = await probeLogits(setActive(both, ["two"]));
  expect(gap(only, all)).toBeGreaterThan(1e-3);
  expect(gap(only, plain)).toBeGreaterThan(1e-3);
  expect(maxAbsDiff(await probeLogits(setActive(setActive(both, []), ["one", "two"])), all)).toBe(0);
  expect(maxAbsDiff(await probeLogits(setActive(both, [])), plain)).toBe(0);
  const left = unload(both, "one");
  expect([...left.adapters.keys()]).toEqual(["two"]);
  expect(left.active).toEqual(["two"]);
  expect([...left.parameters.keys()].filter((name) => name.startsWith("one/"))).toEqual([]);
  expect(maxAbsDiff(await probeLogits(left), only)).toBe(0);
});

test("the order of additive adapters does not matter, and they merge to the sum of their updates", async () => {
  const { base, both } = await two();
  expect(gap(await probeLogits(setActive(both, ["two", "one"])), await probeLogits(both))).toBeLessThan(1e-5);
  const [w, one, two_, sum] = await Promise.all([
    weight(base),
    merge(setActive(both, ["one"])).then(weight),
    merge(setActive(both, ["two"])).then(weight),
    merge(both).then(weight),
  ]);
  const expected = w.map((value, at) => Number(one[at]) + Number(two_[at]) - value);
  expect(largestGap(sum, expected)).toBeLessThan(1e-5);
});

test("a stack of DoRA adapters merges to what it computes", async () => {
  const { both } = await two({ dora: true });
  expect(gap(await probeLogits(await merge(both)), await probeLogits(both))).toBeLessThan(1e-5);
});

describe.each([
  ["lora", {}],
  ["dora", { dora: true }],
] as const)("scale of %s", (_, options) => {
  test("W + scale·(W' − W): merged and live, 0 is the base", async () => {
    const { base, both } = await two(options);
    const model = setActive(both, ["one"]);
    const [w, full] = [await weight(base), await weight(await merge(model))];
    for (const scale of [0.5, -1, 2]) {
      setScale(model, "one", scale);
      const merged = await merge(model);
      const expected = w.map((value, at) => value + scale * (Number(full[at]) - value));
      expect(largestGap(await weight(merged), expected)).toBeLessThan(1e-5);
      expect(gap(await probeLogits(merged), await probeLogits(model))).toBeLessThan(1e-5);
    }
    setScale(model, "one", 0);
    expect(gap(await probeLogits(model), await probeLogits(base))).toBeLessThan(1e-6);
    await expect(merge(model)).rejects.toMatchObject({ code: "adapter-no-effect" });
    const allowed = await merge(model, { allowNoEffect: true });
    expect(gap(await probeLogits(allowed), await probeLogits(base))).toBeLessThan(1e-6);
  });
});

test("two adapters blend by their scales", async () => {
  const { base, both } = await two();
  const [w, one, other] = [
    await weight(base),
    await weight(await merge(setActive(both, ["one"]))),
    await weight(await merge(setActive(both, ["two"]))),
  ];
  setScale(both, "one", 0.25);
  setScale(both, "two", 1.5);
  const blend = await weight(await merge(both));
  const expected = w.map((x, at) => x + 0.25 * (Number(one[at]) - x) + 1.5 * (Number(other[at]) - x));
  expect(largestGap(blend, expected)).toBeLessThan(1e-5);
});

test("a merged model does not follow later training of its adapter", async () => {
  const base = await baseModel("gpt2");
  const model = randomise(await adapt(base, lora({ rank: 2, modulesToSave: ["lm_head"] })));
  const merged = await merge(model);
  const before = await probeLogits(merged);
  randomise(model, 9);
  expect(maxAbsDiff(await probeLogits(merged), before)).toBe(0);
});

test("names are checked", async () => {
  const { both } = await two();
  await expect(adapt(both, lora(), { name: "one" })).rejects.toMatchObject({ code: "name-conflict" });
  expect(() => setActive(both, ["three"])).toThrow(/no adapter 'three'[\s\S]*one, two/);
  expect(() => unload(both, "three")).toThrow(expect.objectContaining({ code: "adapter-invalid" }));
  expect(() => setScale(both, "three", 1)).toThrow(expect.objectContaining({ code: "adapter-invalid" }));
});

test("a seed decides the start", async () => {
  const base = await baseModel("gpt2");
  const first = async (seed: number) => {
    const model = await adapt(base, lora({ rank: 2 }), { seed });
    return Array.from(
      model.parameters.get("default/transformer.h.0.attn.c_attn.lora_A")?.tensor.data as Float32Array,
    );
  };
  expect(await first(3)).toEqual(await first(3));
  expect(await first(3)).not.toEqual(await first(4));
});

test("a wrong option is named", () => {
  expect(() => lora({ rank: 0 })).toThrow(/rank/);
  expect(() => lora({ rank: 2.5 })).toThrow(expect.objectContaining({ code: "config-invalid" }));
  expect(() => lora({ ranks: 4 } as never)).toThrow(/ranks[\s\S]*its options: .*rank/);
});

test("LoRA+ groups find B, magnitudes, biases and embeddings by our names", async () => {
  const base = await baseModel("llama");
  const biased = await adapt(base, lora({ rank: 2, dora: true, loraBias: true, targets: ["q_proj"] }));
  const model = await adapt(biased, lora({ rank: 2, targets: ["embed_tokens"] }), { name: "rows" });
  const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
  const params = new Map(
    trained.map(({ name, tensor }) => [name, (tensor.data as Float32Array).slice().fill(0)]),
  );
  const grads = new Map([...params].map(([name, data]) => [name, data.slice().fill(1)]));
  const optimizer = adamw({ lr: 1e-3, groups: loraPlusGroups(16), weightDecay: 0 });
  optimizer.step(params, grads, optimizer.init(params), { step: 1 });
  // Adam's first step is the learning rate itself.
  const rate = (ending: string) => {
    const [, data] = [...params].find(([name]) => name.endsWith(ending)) ?? [];
    return -Number(data?.[0]);
  };
  expect(rate("layers.0.self_attn.q_proj.lora_A")).toBeCloseTo(1e-3, 6);
  expect(rate("layers.0.self_attn.q_proj.lora_B")).toBeCloseTo(16e-3, 6);
  expect(rate("layers.0.self_attn.q_proj.lora_bias")).toBeCloseTo(16e-3, 6);
  expect(rate("layers.0.self_attn.q_proj.lora_magnitude_vector")).toBeCloseTo(16e-3, 6);
  expect(rate("embed_tokens.lora_embedding_A")).toBeCloseTo(1e-6, 9);
  expect(rate("embed_tokens.lora_embedding_B")).toBeCloseTo(1e-6, 9);
});
