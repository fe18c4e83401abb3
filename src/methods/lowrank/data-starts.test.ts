import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { initModel, probeIds } from "../../models/index.js";
import { svd } from "../../runtime/linalg/index.js";
import { rng } from "../../runtime/random/index.js";
import { nextToken } from "../../training/index.js";
import { adapt, calibrate, lora } from "../index.js";
import type { InitContext, Statistic } from "../method.js";
import { largestGap, probeLogits, product, randomise, relativeDifference } from "../testing/fixtures.js";
import { eva, loraGa } from "./data-starts.js";

const [rows, cols, rank] = [7, 9, 2];
const numbers = (label: string, count: number) => rng(5, label).fillNormal(new Float32Array(count), 0, 1);

function contextWith(statistics: Partial<Record<Statistic, Float32Array>>): InitContext {
  const site = { path: "map", kind: "linear", inFeatures: cols, outFeatures: rows, hasBias: false } as const;
  const never = () => {
    throw new Error("not used");
  };
  return {
    site,
    seed: 0,
    normal: never,
    uniform: never,
    weight: never,
    once: (_, compute) => compute(),
    statistic: async (name) => statistics[name] ?? never(),
  };
}

/** Of a matrix `[height, width]`. */
const transposed = (data: ArrayLike<number>, height: number, width: number) =>
  Float64Array.from({ length: height * width }, (_, at) =>
    Number(data[(at % height) * width + Math.floor(at / height)]),
  );

test("EVA's rows are the directions in which inputs vary most around their mean", async () => {
  const count = 40;
  const x = numbers("x", count * cols).map((value, at) => value * (1 + (at % cols)) + 10);
  const mean = Float64Array.from({ length: cols }, (_, col) => {
    let sum = 0;
    for (let row = 0; row < count; row++) sum += (x[row * cols + col] as number) / count;
    return sum;
  });
  const covariance = product(transposed(x, count, cols), x, [cols, count, cols]).map(
    (value) => value / count,
  );
  const start = await eva(
    contextWith({ covariance: Float32Array.from(covariance), inputMean: Float32Array.from(mean) }),
    rank,
  );
  const centred = x.map((value, at) => value - (mean[at % cols] as number));
  const { vt, s } = svd({ rows: count, cols, data: centred });
  const along = product(start.a, transposed(vt.data, cols, cols), [rank, cols, cols]);
  for (let k = 0; k < rank; k++) {
    expect(Math.abs(along[k * cols + k] as number)).toBeGreaterThan(1 - 1e-4);
    expect(s[k]).toBeGreaterThan(s[rank] as number);
  }
  expect([...start.b].every((value) => value === 0)).toBe(true);
});

test("LoRA-GA's first step moves W along the best approximation of rank 2r of the gradient", async () => {
  const gradient = numbers("g", rows * cols);
  const { a, b } = await loraGa(contextWith({ gradient }), rank);
  // A step of size 1: ΔW = B·Bᵀ·G + G·Aᵀ·A, with factors of size out^(1/4) / √16.
  const left = product(product(b, transposed(b, rows, rank), [rows, rank, rows]), gradient, [
    rows,
    rows,
    cols,
  ]);
  const right = product(gradient, product(transposed(a, rank, cols), a, [cols, rank, cols]), [
    rows,
    cols,
    cols,
  ]);
  const size = Math.sqrt(rows) / 16;
  const moved = left.map((value, at) => (value + (right[at] as number)) / size);
  const { u, s, vt } = svd({ rows, cols, data: gradient });
  const best = new Float64Array(rows * cols);
  for (let k = 0; k < 2 * rank; k++)
    for (let at = 0; at < rows * cols; at++)
      best[at] =
        (best[at] as number) +
        (s[k] as number) *
          (u.data[Math.floor(at / cols) * u.cols + k] as number) *
          (vt.data[k * cols + (at % cols)] as number);
  expect(largestGap(moved, best)).toBeLessThan(1e-4);
});

test.each(["eva", "lora_ga"] as const)(
  "%s starts as the base from calibration data, and asks for it",
  async (init) => {
    const base = initModel(
      {
        model_type: "llama",
        vocab_size: 64,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
      },
      { seed: 2 },
    );
    const examples = [{ ids: Int32Array.from(probeIds(40, 8)), lossMask: new Uint8Array(8).fill(1, 1) }];
    const train = packExamples(examples, { length: 8, strategy: "none" });
    const objective = nextToken(base, { train, batchSize: 1, lengths: [8], padId: 0 });
    const calibration = await calibrate(objective, {
      statistics: ["covariance", "inputMean", "gradient"],
      batches: 1,
    });
    const start = lora({ rank: 2, init, targets: ["q_proj", "down_proj"] });
    const before = await probeLogits(base);
    const model = await adapt(base, start, { calibration });
    expect(relativeDifference(await probeLogits(model), before)).toBeLessThan(1e-5);
    expect(relativeDifference(await probeLogits(randomise(model)), before)).toBeGreaterThan(1e-3);
    await expect(adapt(base, start)).rejects.toThrow(/calibrat/);
  },
);
