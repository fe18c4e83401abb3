// What a run's levers cost and save, and how well the memory plan predicts: sections of bench/sections.mjs.
import { median } from "./measure.mjs";

const of = (key) => (reports) => median(reports.map((report) => report[key]));
const against = (peerName, what, unit, ours, peer) => ({
  what,
  unit,
  ours,
  peer,
  ratio: ours / peer,
  peerName,
});

/** Each lever of a run on the 124M model, on and off. */
export function leversSection({ alternate, ours, rounds, models }) {
  const common = {
    model: models["gpt2-124m"],
    ...{ batch: 4, length: 128, threads: 2, steps: 4, warmup: 1, batches: 4 },
  };
  // Kept activations serve from the second pass over the rows on.
  const upper = { ...common, steps: 4, warmup: 4, "layers-from": 6 };
  const quantized = (kind) => ({ quantize: JSON.stringify({ kind }) });
  const levers = [
    ["recomputation", common, { recompute: true }],
    ["frozen-prefix cache, adapters in the upper half", upper, { "prefix-cache": true }],
    ["repacked weights", common, { prepack: true }],
    ["16 rows of logits at a time", common, { "chunk-rows": 16 }],
    ["all 512 rows of logits at a time", common, { "chunk-rows": 512 }],
    ["batches of 1, four accumulated", common, { batch: 1, accumulate: 4, batches: 16 }],
    ["base in int8", common, quantized("int8")],
    ["base in nf4", common, quantized("nf4")],
  ];
  const speed = (reports) => (common.batch * common.length) / of("medianStepSeconds")(reports);
  const rows = levers.flatMap(([name, off, on]) => {
    const [without, using] = alternate(
      rounds,
      () => ours(off),
      () => ours({ ...off, ...on }),
    );
    const memory = of("peakRssMb");
    return [
      against("off", `${name}: tokens/s`, "", speed(using), speed(without)),
      against("off", `${name}: peak RSS`, "MB", memory(using), memory(without)),
    ];
  });
  return { rows };
}

const images = {
  ...{ task: "images", batch: 32, length: 32 },
  config: {
    ...{ model_type: "conv_net", image: [3, 32, 32] },
    layers: [
      { type: "conv", name: "a", out: 64, kernel: 3, padding: 1 },
      { type: "activation", function: "relu" },
      { type: "conv", name: "b", out: 64, kernel: 3, padding: 1 },
      { type: "activation", function: "relu" },
      { type: "max_pool", kernel: 2 },
      { type: "conv", name: "c", out: 128, kernel: 3, padding: 1 },
      { type: "global_mean" },
      { type: "linear", name: "d", out: 3 },
    ],
  },
};

/** The memory plan before the first step against the peak of the process that then ran. */
export function planSection({ oursFromSource, models }) {
  const large = { model: models["gpt2-124m"], target: "c_attn", batch: 4, length: 128 };
  const longer = { ...large, batch: 2, length: 512 };
  const small = { model: "assets/default-model", batch: 8, length: 128 };
  const runs = [
    ["GPT-2 124M, 4 x 128", large],
    ["GPT-2 124M, 4 x 128, recomputed", { ...large, recompute: true }],
    ["GPT-2 124M, 2 x 512", longer],
    ["GPT-2 124M, 2 x 512, recomputed", { ...longer, recompute: true }],
    ["GPT-2 124M, 4 x 128, repacked weights", { ...large, prepack: true }],
    ["shipped model, 8 x 128", { ...small, steps: 20 }],
    [
      "shipped model, 8 x 128, two blocks recomputed, accumulated",
      { ...small, steps: 10, accumulate: 4, recompute: 2 },
    ],
    [
      "shipped model, full fine-tuning with early stopping",
      { ...small, steps: 10, method: "full", patience: 99 },
    ],
    ["convolutions, 32 images of 32 x 32", images],
  ];
  const rows = runs.map(([name, run]) => {
    const { predicted, peak } = oursFromSource(run, "memory-run.ts");
    return against("measured", `${name}: planned peak`, "MB", predicted / 2 ** 20, peak / 2 ** 20);
  });
  return { rows, largestError: Math.max(...rows.map(({ ratio }) => Math.abs(ratio - 1))) };
}
