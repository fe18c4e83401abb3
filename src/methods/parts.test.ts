import { describe, expect, test } from "vitest";
import { input, makeGraph, ops } from "../graph/index.js";
import { type CausalLm, noiseOf } from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import { rng } from "../runtime/random/index.js";
import { readTensor, tensor, toFloat32 } from "../tensor/index.js";
import { nextToken, stepGraph } from "../training/index.js";
import { adapt, callMethod, lora, merge } from "./index.js";
import { baseModel, largestGap, probeLogits, randomise, relativeDifference } from "./testing/fixtures.js";

/** Other parts of an adapter than its factors: dropout, biases, modules trained whole, trained token rows. */

describe("dropout", () => {
  const [tokens, width, rank] = [4, 6, 2];
  const numbers = (label: string, count: number) => rng(8, label).fillNormal(new Float32Array(count));
  const data = {
    w: numbers("w", width * width),
    x: numbers("x", tokens * width),
    lora_A: numbers("a", rank * width),
    lora_B: numbers("b", width * rank),
    lora_magnitude_vector: numbers("m", width),
  };
  const shapes = {
    w: [width, width],
    x: [tokens, width],
    lora_A: [rank, width],
    lora_B: [width, rank],
    lora_magnitude_vector: [width],
  };

  /** Output of one map for a mask (1 keeps). */
  const outputFor = async (dora: boolean, probability: number, mask: ArrayLike<number> | undefined) => {
    const { method, config } = lora({ rank, dora, dropout: probability });
    const keys = Object.keys(shapes) as (keyof typeof shapes)[];
    const value = Object.fromEntries(keys.map((key) => [key, input(key, "float32", shapes[key])])) as Record<
      keyof typeof shapes,
      ReturnType<typeof input>
    >;
    const kept = input("kept", "float32", [tokens, width]);
    const y = callMethod(method, config, {
      site: { path: "map", kind: "linear", inFeatures: width, outFeatures: width, hasBias: false },
      tensors: {
        lora_A: value.lora_A,
        lora_B: value.lora_B,
        ...(dora ? { lora_magnitude_vector: value.lora_magnitude_vector } : {}),
      },
      x: value.x,
      weight: value.w,
      dropped: (x, p) => (mask ? ops.mul(ops.mul(x, kept), 1 / (1 - p)) : x),
    });
    const inputs = [
      ...keys.filter((key) => dora || key !== "lora_magnitude_vector").map((key) => value[key]),
      ...(mask ? [kept] : []),
    ];
    const feeds = Object.fromEntries(
      inputs.map(({ name }) => [
        String(name),
        tensor(
          "float32",
          name === "kept" ? [tokens, width] : shapes[name as keyof typeof shapes],
          name === "kept" ? Float32Array.from(mask ?? []) : data[name as keyof typeof data],
        ),
      ]),
    );
    return (await evaluate(makeGraph("map", inputs, [["out", y]]), feeds)).out?.data as Float32Array;
  };

  test.each([
    ["lora", false],
    ["dora", true],
  ] as const)("%s: a mask and its complement average to no dropout", async (_, dora) => {
    const mask = Array.from({ length: tokens * width }, (__, at) => ((at * 7) % 3 === 0 ? 1 : 0));
    const [one, other, none] = [
      await outputFor(dora, 0.5, mask),
      await outputFor(
        dora,
        0.5,
        mask.map((value) => 1 - value),
      ),
      await outputFor(dora, 0.5, undefined),
    ];
    expect(largestGap(one, other)).toBeGreaterThan(0.1);
    expect(
      largestGap(
        one.map((value, at) => (value + Number(other[at])) / 2),
        none,
      ),
    ).toBeLessThan(1e-4);
  });

  test("dora: y = W0·x + (m/n − 1)·W0·x_d + (m/n)·s·B·A·x_d", async () => {
    const mask = Array.from({ length: tokens * width }, (_, at) => (at % 4 === 0 ? 0 : 1));
    const p = 0.25;
    const { w, x, lora_A: a, lora_B: b, lora_magnitude_vector: m } = data;
    const scale = 8 / rank;
    const expected = Array.from({ length: tokens * width }, (_, at) => {
      const [t, i] = [Math.floor(at / width), at % width];
      const update = (j: number) =>
        scale * (Number(b[i * rank]) * Number(a[j]) + Number(b[i * rank + 1]) * Number(a[width + j]));
      const n = Math.hypot(...Array.from({ length: width }, (__, j) => Number(w[i * width + j]) + update(j)));
      const factor = Number(m[i]) / n;
      let sum = 0;
      for (let j = 0; j < width; j++) {
        const kept = (Number(x[t * width + j]) * Number(mask[t * width + j])) / (1 - p);
        sum +=
          Number(w[i * width + j]) * (Number(x[t * width + j]) + (factor - 1) * kept) +
          factor * update(j) * kept;
      }
      return sum;
    });
    expect(largestGap(await outputFor(true, p, mask), expected)).toBeLessThan(1e-4);
  });

  test("masks are inputs of the training graph only, one per site, with their probability", async () => {
    const base = await baseModel("llama");
    const masks = (model: CausalLm) =>
      stepGraph(nextToken(model, { batchSize: 1, lengths: [4], padId: 0 }), {
        batch: 1,
        length: 4,
      }).graph.inputs.filter((value) => noiseOf(value) !== undefined);
    const model = await adapt(base, lora({ rank: 2, dropout: 0.1, targets: ["q_proj", "v_proj"] }));
    const found = masks(model);
    expect(found.map(({ name }) => name).toSorted()).toEqual(
      [0, 1].flatMap((layer) =>
        ["q", "v"].map((part) => `dropout/default/model.layers.${layer}.self_attn.${part}_proj`),
      ),
    );
    expect(found.map(noiseOf)).toEqual(found.map(() => ({ kind: "keep", probability: 0.1 })));
    expect(masks(await adapt(base, lora({ rank: 2 })))).toEqual([]);
    expect((await probeLogits(model)).data).toEqual((await probeLogits(model)).data);
  });
});

const trainedNames = async (name: string, options: Parameters<typeof lora>[0]) => {
  const model = await adapt(await baseModel(name), lora({ rank: 2, targets: ["c_attn"], ...options }));
  return [...model.parameters.values()]
    .filter(({ trainable }) => trainable)
    .map((entry) => entry.name.replace("default/", ""));
};

describe("bias", () => {
  const biases = async (bias: "none" | "all" | "adapted") =>
    (await trainedNames("gpt2", { bias })).filter((name) => name.endsWith(".bias"));
  test("none, adapted and all", async () => {
    expect(await biases("none")).toEqual([]);
    expect(await biases("adapted")).toEqual([0, 1].map((layer) => `transformer.h.${layer}.attn.c_attn.bias`));
    const all = await biases("all");
    // Per layer: two norms, two maps of attention, two of the MLP; and the last norm.
    expect(all).toHaveLength(13);
    expect(all).toContain("transformer.ln_f.bias");
    expect(all).toContain("transformer.h.1.mlp.c_proj.bias");
  });
});

const readWeight = async (model: CausalLm, name: string): Promise<Float32Array> => {
  const value = model.weights.get(name);
  if (value?.source.kind !== "constant") throw new Error(`no ${name}`);
  return toFloat32(await readTensor(value.source.data));
};

describe("modules trained whole", () => {
  test("a tied head is untied: the embedding stays", async () => {
    const base = await baseModel("gpt2");
    const model = randomise(await adapt(base, lora({ rank: 2, modulesToSave: ["lm_head"] })));
    const merged = await merge(model);
    expect(await readWeight(merged, "transformer.wte.weight")).toEqual(
      await readWeight(base, "transformer.wte.weight"),
    );
    expect(await readWeight(merged, "lm_head.weight")).not.toEqual(
      await readWeight(base, "transformer.wte.weight"),
    );
    expect(relativeDifference(await probeLogits(merged), await probeLogits(model))).toBeLessThan(1e-5);
  });

  test("an untied one is replaced; adapted modules inside are not adapted as well", async () => {
    const base = await baseModel("llama");
    const options = {
      rank: 2,
      targets: ["q_proj", "down_proj"],
      modulesToSave: ["mlp.down_proj", "lm_head"],
    };
    const model = await adapt(base, lora(options));
    const names = [...model.parameters.keys()];
    expect(names.some((name) => name.includes("down_proj.lora_A"))).toBe(false);
    expect(names).toContain("default/model.layers.0.mlp.down_proj.weight");
    expect(names).toContain("default/lm_head.weight");
    randomise(model);
    expect(relativeDifference(await probeLogits(await merge(model)), await probeLogits(model))).toBeLessThan(
      1e-5,
    );
  });

  test("a module that does not exist is an error with near names", async () => {
    const base = await baseModel("llama");
    await expect(adapt(base, lora({ modulesToSave: ["lm_haed"] }))).rejects.toThrow(/lm_haed[\s\S]*lm_head/);
  });
});

describe("trained token rows", () => {
  test.each(["gpt2", "llama"])("%s: exactly these rows change, and a tied head sees them", async (name) => {
    const base = await baseModel(name);
    const table = name === "gpt2" ? "transformer.wte.weight" : "model.embed_tokens.weight";
    const model = randomise(await adapt(base, lora({ rank: 2, trainableTokens: [3, 40] })));
    const merged = await merge(model);
    const [before, after] = [await readWeight(base, table), await readWeight(merged, table)];
    const changed = Array.from({ length: before.length / 24 }, (_, row) => row).filter(
      (row) =>
        largestGap(before.subarray(row * 24, row * 24 + 24), after.subarray(row * 24, row * 24 + 24)) > 0,
    );
    expect(changed).toEqual([3, 40]);
    if (name === "gpt2")
      expect(largestGap(await readWeight(merged, "lm_head.weight"), after)).toBeLessThan(1e-6);
    expect(relativeDifference(await probeLogits(merged), await probeLogits(model))).toBeLessThan(1e-5);
  });

  test("an id outside the vocabulary and an empty list are errors", async () => {
    const base = await baseModel("gpt2");
    for (const trainableTokens of [[3, 80], []])
      await expect(adapt(base, lora({ trainableTokens }))).rejects.toMatchObject({ code: "config-invalid" });
  });
});
