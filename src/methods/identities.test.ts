import { describe, expect, test } from "vitest";
import { svd } from "../runtime/linalg/index.js";
import { maxAbsDiff, readTensor, toFloat32 } from "../tensor/index.js";
import { type AdaptedLm, adapt, lora, merge, receiptOf, setActive } from "./index.js";
import {
  baseModel,
  largestGap,
  probeLogits,
  product,
  randomise,
  relativeDifference,
} from "./testing/fixtures.js";

type Options = NonNullable<Parameters<typeof lora>[0]>;

/** Every initialisation and option of LoRA, on a transposed (gpt2) and a plain (llama) weight layout. */
const OPTIONS: Readonly<Record<string, Options>> = {
  plain: {},
  alpha: { alpha: 3, rank: 5 },
  rslora: { rslora: true },
  gaussian: { init: "gaussian" },
  orthogonal: { init: "orthogonal" },
  pissa: { init: "pissa" },
  pissa_niter_4: { init: "pissa_niter_4" },
  "pissa rslora": { init: "pissa", rslora: true, alpha: 3 },
  olora: { init: "olora" },
  dora: { dora: true },
  "dora pissa": { dora: true, init: "pissa" },
  "lora bias": { loraBias: true },
  patterns: { rankPattern: { ".*0.*": 2 }, alphaPattern: { ".*1.*": 20 } },
  "bias all": { bias: "all" },
};
const EMBEDDING = { gpt2: ["wte", "wpe", "c_fc"], llama: ["embed_tokens", "o_proj"] } as const;

function optionsFor(model: "gpt2" | "llama"): [string, Options][] {
  const linear = Object.entries(OPTIONS).map(([name, options]): [string, Options] => [
    name,
    { rank: 4, alpha: 8, targets: "all-linear", ...options },
  ]);
  return [
    ...linear,
    ["embedding", { rank: 4, targets: [...EMBEDDING[model]] }],
    ["dora embedding", { rank: 4, dora: true, targets: [...EMBEDDING[model]] }],
    ["saved", { rank: 4, modulesToSave: ["lm_head"] }],
    ["tokens", { rank: 4, trainableTokens: [3, 17, 40] }],
  ];
}

describe.each(["gpt2", "llama"] as const)("%s", (name) => {
  test.each(optionsFor(name))(
    "%s: starts as the base, merges exactly, comes off exactly",
    async (_, options) => {
      const base = await baseModel(name);
      const untouched = await probeLogits(base);
      const model = await adapt(base, lora(options), { seed: 2 });
      expect(relativeDifference(await probeLogits(model), untouched)).toBeLessThan(1e-5);
      const fresh = await receiptOf(model);
      expect(fresh.logits.maxDifference).toBeLessThan(1e-4);

      randomise(model);
      const logits = await probeLogits(model);
      expect(relativeDifference(logits, untouched)).toBeGreaterThan(1e-2);
      const merged = await merge(model);
      expect(relativeDifference(await probeLogits(merged), logits)).toBeLessThan(1e-5);
      expect(merged.parameters.size).toBe(0);
      expect(maxAbsDiff(await probeLogits(setActive(model, [])), untouched)).toBe(0);
      expect(maxAbsDiff(await probeLogits(base), untouched)).toBe(0);
    },
  );
});

test.each([
  ["plain", {}, 0],
  ["dora", { dora: true }, 1],
  ["lora bias", { loraBias: true }, 1],
] as const)("%s: r(in + out) numbers per map, and its vectors", async (_, options, vectors) => {
  const model = await adapt(await baseModel("llama"), lora({ rank: 3, targets: "all-linear", ...options }));
  const sizes = [...(model.adapters.get("default")?.sites.values() ?? [])].map(({ shape }) => shape);
  expect(sizes).toHaveLength(14);
  const expected = sizes.reduce(
    (sum, { inFeatures, outFeatures }) => sum + 3 * (inFeatures + outFeatures) + vectors * outFeatures,
    0,
  );
  expect((await receiptOf(model)).trainableParameters).toBe(expected);
});

const SITE = { gpt2: "transformer.h.0.attn.c_attn", llama: "model.layers.0.self_attn.q_proj" } as const;

const tensorOf = (model: AdaptedLm, site: string, name: string) =>
  model.adapters.get("default")?.sites.get(site)?.tensors[name]?.tensor.data as Float32Array;

/** The site's base weight as `[out, in]`. */
async function weightOf(model: AdaptedLm, name: "gpt2" | "llama") {
  const value = model.base.weights.get(`${SITE[name]}.weight`);
  if (value?.source.kind !== "constant") throw new Error("no weight");
  const data = toFloat32(await readTensor(value.source.data));
  const [rows, cols] = value.shape as [number, number];
  if (name === "llama") return { rows, cols, data };
  const turned = Float32Array.from({ length: data.length }, (_, at) =>
    Number(data[(at % rows) * cols + Math.floor(at / rows)]),
  );
  return { rows: cols, cols: rows, data: turned };
}

describe.each(["gpt2", "llama"] as const)("factors on %s", (name) => {
  const start = async (options: Options) => {
    const model = await adapt(await baseModel(name), lora({ targets: [SITE[name]], ...options }));
    const weight = await weightOf(model, name);
    return {
      model,
      weight,
      a: tensorOf(model, SITE[name], "lora_A"),
      b: tensorOf(model, SITE[name], "lora_B"),
    };
  };

  test.each([
    ["pissa", 1 + 1e-5],
    ["pissa_niter_8", 1 + 1e-2],
  ] as const)("%s: s·B·A is the best approximation of rank r", async (init, slack) => {
    const { weight, a, b } = await start({ rank: 3, alpha: 12, init });
    const update = product(b, a, [weight.rows, 3, weight.cols]).map((value) => 4 * value);
    const left = weight.data.reduce((sum, value, at) => sum + (value - Number(update[at])) ** 2, 0);
    const dropped = svd(weight)
      .s.slice(3)
      .reduce((sum, value) => sum + value ** 2, 0);
    expect(left / dropped).toBeLessThan(slack);
    expect(left / dropped).toBeGreaterThan(1 - 1e-5);
  });

  test("olora: B has orthonormal columns, A is upper trapezoidal, and B·A is W on the first r columns", async () => {
    const rank = 3;
    const { weight, a, b } = await start({ rank, alpha: 12, init: "olora" });
    const { rows, cols } = weight;
    const turned = Float64Array.from({ length: b.length }, (_, at) =>
      Number(b[(at % rows) * rank + Math.floor(at / rows)]),
    );
    const gram = product(turned, b, [rank, rows, rank]);
    expect(largestGap(gram, [1, 0, 0, 0, 1, 0, 0, 0, 1])).toBeLessThan(1e-5);
    for (const [row, col] of [
      [1, 0],
      [2, 0],
      [2, 1],
    ] as const)
      expect(a[row * cols + col]).toBeCloseTo(0, 5);
    const update = product(b, a, [rows, rank, cols]);
    for (let row = 0; row < rows; row++)
      for (let col = 0; col < rank; col++)
        expect(update[row * cols + col]).toBeCloseTo(Number(weight.data[row * cols + col]), 4);
  });

  test("the merged weight is W + s·B·A, turned as the file has it", async () => {
    const { model, weight } = await start({ rank: 3, alpha: 12 });
    randomise(model);
    const [a, b] = [tensorOf(model, SITE[name], "lora_A"), tensorOf(model, SITE[name], "lora_B")];
    const update = product(b, a, [weight.rows, 3, weight.cols]);
    const expected = weight.data.map((value, at) => value + 4 * Number(update[at]));
    const merged = await merge(model);
    const actual = await weightOf({ ...model, base: merged }, name);
    expect(largestGap(actual.data, expected)).toBeLessThan(1e-5);
    const shape = merged.weights.get(`${SITE[name]}.weight`)?.shape;
    expect(shape).toEqual(name === "gpt2" ? [weight.cols, weight.rows] : [weight.rows, weight.cols]);
  });

  test("dora: the rows of the merged weight have norm |m|", async () => {
    const { model } = await start({ rank: 3, dora: true });
    randomise(model);
    const { rows, cols, data } = await weightOf({ ...model, base: await merge(model) }, name);
    const magnitudes = tensorOf(model, SITE[name], "lora_magnitude_vector");
    for (let row = 0; row < rows; row++) {
      const norm = Math.hypot(...data.subarray(row * cols, (row + 1) * cols));
      expect(norm / Math.abs(Number(magnitudes[row]))).toBeCloseTo(1, 5);
    }
  });
});

test("an adapted embedding is E + s·(B·A) turned: rows of tokens, A starting at zero", async () => {
  const base = await baseModel("llama");
  const model = await adapt(base, lora({ rank: 2, alpha: 6, targets: ["embed_tokens"] }));
  const path = "model.embed_tokens";
  expect(tensorOf(model, path, "lora_embedding_A").every((value) => value === 0)).toBe(true);
  randomise(model);
  const [a, b] = [tensorOf(model, path, "lora_embedding_A"), tensorOf(model, path, "lora_embedding_B")];
  const [rows, width] = [72, 24];
  const update = product(b, a, [width, 2, rows]);
  const read = async (lm: typeof base) => {
    const value = lm.weights.get(`${path}.weight`);
    if (value?.source.kind !== "constant") throw new Error("no embedding");
    return toFloat32(await readTensor(value.source.data));
  };
  const [before, after] = [await read(base), await read(await merge(model))];
  const expected = before.map(
    (value, at) => value + 3 * Number(update[(at % width) * rows + Math.floor(at / width)]),
  );
  expect(largestGap(after, expected)).toBeLessThan(1e-5);
});
