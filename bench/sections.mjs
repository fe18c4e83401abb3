// What is measured. Each section returns rows {what, ours, peer, ratio, target, unit}.
import { join } from "node:path";
import { leversSection, planSection } from "./levers.mjs";
import { median, withScratch } from "./measure.mjs";
import { methodsSection } from "./methods.mjs";

const of = (key) => (reports) => median(reports.map((report) => report[key]));
const row = (what, unit, ours, peer, target) => ({ what, unit, ours, peer, ratio: ours / peer, target });

/** Step time, memory and start-up of one shape, with the time its matrix products alone take. */
function stepSection({ alternate, ours, peer, rounds, models }, preset, shape, targets) {
  const common = { model: models[preset], ...shape, threads: 2, steps: 8, warmup: 2 };
  const [mine, theirs] = alternate(
    rounds,
    () => ours(common),
    () => peer({ ...common, preset }),
  );
  const { profile } = withScratch((folder) => ours({ ...common, profile: join(folder, "profile") }));
  const rows = [
    row("step time", "s", of("medianStepSeconds")(mine), of("medianStepSeconds")(theirs), targets.step),
    row("processor time of a step", "s", of("medianCpuSeconds")(mine), of("medianCpuSeconds")(theirs)),
    row("step time over the sum of its GEMMs", "s", profile.runSeconds, profile.gemmSeconds, targets.gemm),
    row("peak RSS", "MB", of("peakRssMb")(mine), of("peakRssMb")(theirs), targets.rss),
    row("  of which anonymous", "MB", of("peakRssAnonMb")(mine), of("peakRssAnonMb")(theirs)),
    row("  of which file-backed", "MB", of("peakRssFileMb")(mine), of("peakRssFileMb")(theirs)),
    row(
      "process start to first finished step",
      "s",
      of("startToFirstStepSeconds")(mine),
      of("startToFirstStepSeconds")(theirs),
      targets.start,
    ),
  ];
  return { rows, versions: { ours: mine[0].versions, peer: theirs[0].versions }, reports: { mine, theirs } };
}

function sweepSection({ ours, peer, models, alternate }) {
  const rows = [];
  for (const batch of [1, 2, 4, 8, 16]) {
    for (const length of [32, 128, 512]) {
      const common = {
        model: models.l6d384,
        batch,
        length,
        threads: 2,
        steps: batch * length > 4000 ? 2 : 6,
        warmup: 1,
        batches: 2,
      };
      const [mine, theirs] = alternate(
        1,
        () => ours(common),
        () => peer({ ...common, preset: "l6d384" }),
      );
      rows.push(
        row(
          `batch ${batch} x ${length}`,
          "s",
          of("medianStepSeconds")(mine),
          of("medianStepSeconds")(theirs),
        ),
      );
    }
  }
  return { rows };
}

/** Three epochs with adapters in the upper half: epochs 2 and 3 start from kept activations. */
function prefixSection({ alternate, ours, peer, rounds, models }) {
  const common = {
    model: models.l6d384,
    batch: 8,
    length: 128,
    threads: 2,
    epochs: 3,
    batches: 16,
    "layers-from": 3,
  };
  const [mine, theirs] = alternate(
    rounds,
    () => ours({ ...common, "prefix-cache": true }),
    () => peer({ ...common, preset: "l6d384" }),
  );
  const plain = ours(common);
  const drift = Math.max(...plain.losses.map((loss, step) => Math.abs(loss - mine[0].losses[step])));
  const rows = [
    row(
      "3 epochs, adapters in the upper half",
      "s",
      of("totalSeconds")(mine),
      of("totalSeconds")(theirs),
      0.6,
    ),
  ];
  rows.push(row("the same without the cache", "s", plain.totalSeconds, of("totalSeconds")(theirs)));
  return { rows, largestLossDifference: drift };
}

/** Recomputation of blocks: activation memory (anonymous pages above the smallest run) and time. */
function recomputeSection({ ours, models, rounds, alternate }) {
  const model = models["gpt2-124m"];
  const common = { model, batch: 4, length: 256, threads: 2, steps: 3, warmup: 1, batches: 2 };
  const [kept, again] = alternate(
    rounds,
    () => ours(common),
    () => ours({ ...common, recompute: true }),
  );
  const floor = ours({ ...common, batch: 1, length: 16 }).peakRssAnonMb;
  const memory = (reports) => of("peakRssAnonMb")(reports) - floor;
  return {
    rows: [
      row("activation memory with recomputation over without", "MB", memory(again), memory(kept), 0.5),
      row(
        "step time with recomputation over without",
        "s",
        of("medianStepSeconds")(again),
        of("medianStepSeconds")(kept),
        1.35,
      ),
    ],
  };
}

/** LoRA on a base whose linear maps are kept in fewer bits, against the same on floats. */
function quantizedSection({ ours, models, rounds, alternate }) {
  const common = {
    model: models["gpt2-124m"],
    batch: 4,
    length: 128,
    threads: 2,
    steps: 4,
    warmup: 1,
    batches: 2,
  };
  const kinds = ["int8", "int4", "nf4"];
  const [floats, ...kept] = alternate(
    rounds,
    () => ours(common),
    ...kinds.map((kind) => () => ours({ ...common, quantize: JSON.stringify(kind) })),
  );
  const rows = kinds.flatMap((kind, at) => {
    const compare = (what, unit, key) => row(`${what}, ${kind}`, unit, of(key)(kept[at]), of(key)(floats));
    return [
      compare("peak RSS", "MB", "peakRssMb"),
      compare("  of which anonymous", "MB", "peakRssAnonMb"),
      compare("step time", "s", "medianStepSeconds"),
      compare("  processor time of a step", "s", "medianCpuSeconds"),
      compare("  process start to first finished step", "s", "startToFirstStepSeconds"),
    ];
  });
  return { rows, keptMb: Object.fromEntries(kinds.map((kind, at) => [kind, kept[at][0].keptMb])) };
}

function memorySection({ ours }) {
  const loss = ours({ tokens: 1024, vocabulary: 50257, hidden: 768 }, "cross-entropy.mjs");
  return {
    rows: [
      {
        what: "cross-entropy, 1024 tokens x 50257: peak over idle",
        unit: "MB",
        ours: loss.peakMb,
        peer: 80,
        ratio: loss.peakMb / 80,
        target: 1,
      },
    ],
  };
}

function sharedSection({ ours, models }) {
  const { oneMb, twoMb, weightsMb } = ours({ model: models["gpt2-124m"] }, "two-sessions.mjs");
  return {
    rows: [
      {
        what: "second session over the same weights, share of them",
        unit: "MB",
        ours: twoMb - oneMb,
        peer: weightsMb,
        ratio: (twoMb - oneMb) / weightsMb,
        target: 0.05,
      },
    ],
  };
}

/** LoRA on every convolution: step and memory, and what it adds over the frozen network with its head trained. */
function convSection({ alternate, ours, peer, rounds, convNet: model }) {
  const common = { model, batch: 8, size: 128, threads: 2 };
  const script = ["conv.mjs", "torch_conv.py"];
  const [mine, theirs] = alternate(
    rounds,
    () => ours(common, script[0]),
    () => peer(common, script[1]),
  );
  const [myBare, theirBare] = alternate(
    1,
    () => ours({ ...common, bare: true }, script[0]),
    () => peer({ ...common, bare: true }, script[1]),
  );
  const extra = (reports, bare) => of("peakRssAnonMb")(reports) - of("peakRssAnonMb")(bare);
  return {
    rows: [
      row("step time", "s", of("medianStepSeconds")(mine), of("medianStepSeconds")(theirs)),
      row("peak RSS", "MB", of("peakRssMb")(mine), of("peakRssMb")(theirs)),
      row("memory over the frozen network's", "MB", extra(mine, myBare), extra(theirs, theirBare), 1),
      row(
        "process start to first finished step",
        "s",
        of("startToFirstStepSeconds")(mine),
        of("startToFirstStepSeconds")(theirs),
      ),
    ],
  };
}

/** A 124M model as one ONNX file of half a gigabyte: opening it for training, and creating sessions. */
function importSection({ ours, peer, alternate, rounds, models }) {
  const file = join(models["gpt2-124m"], "..", "gpt2-124m-onnx", "model.onnx");
  const options = { model: models["gpt2-124m"], file };
  ours(options, "import.mjs");
  const [mine, theirs] = alternate(
    rounds,
    () => ours(options, "import.mjs"),
    () => peer({ file }, "onnx_import.py"),
  );
  return {
    fileMb: mine[0].fileMb,
    rows: [
      row("open the file as a model", "s", of("importSeconds")(mine), of("importSeconds")(theirs)),
      row(
        "session for the forward pass",
        "s",
        of("forwardSessionSeconds")(mine),
        of("sessionSeconds")(theirs),
      ),
      row("memory of the opened model over its file", "MB", of("importedMb")(mine), mine[0].fileMb),
      row(
        "training session over forward session",
        "s",
        of("sessionSeconds")(mine),
        of("forwardSessionSeconds")(mine),
      ),
    ],
  };
}

/** The shipped model's adapter trained in Chromium, two WASM threads each; steps alternate between the libraries. */
async function browserSection({ rounds, say }) {
  const shape = { steps: 12, batch: 4, length: 128 };
  // Loaded here only: it needs the built library, and the documents read titles from this file without it.
  const { browserReports } = await import("./browser/run.mjs");
  const { reports, parameters, versions } = await browserReports({ say, rounds, ...shape });
  const { tunesmith, ...peers } = reports;
  const stepSeconds = (library) => median(library.flatMap(({ seconds }) => seconds));
  const mine = stepSeconds(tunesmith);
  const rows = Object.entries(peers).flatMap(([name, library]) => {
    const theirs = stepSeconds(library);
    return [
      {
        ...row(`step time, ${name}`, "s", mine, theirs, 1 / 1.5),
        stepsPerSecond: { ours: 1 / mine, peer: 1 / theirs, ratio: theirs / mine },
      },
      row(`  processor time of a step, ${name}`, "s", of("cpuSeconds")(tunesmith), of("cpuSeconds")(library)),
      row(
        `  page to first finished step, ${name}`,
        "s",
        of("firstStepSeconds")(tunesmith),
        of("firstStepSeconds")(library),
      ),
      row(`  peak RSS of the page's process, ${name}`, "MB", of("peakMb")(tunesmith), of("peakMb")(library)),
    ].filter(({ ratio }) => !Number.isNaN(ratio));
  });
  return { rows, parameters, versions, reports };
}

export const sections = [
  {
    name: "step",
    title: "LoRA r=8, GPT-2 124M, batch 4 x 128",
    run: (tools) =>
      stepSection(
        tools,
        "gpt2-124m",
        { batch: 4, length: 128 },
        { step: 0.85, gemm: 1.2, rss: 0.7, start: 0.4 },
      ),
  },
  {
    name: "small",
    title: "LoRA r=8, 6 layers of width 384, batch 8 x 128",
    run: (tools) => stepSection(tools, "l6d384", { batch: 8, length: 128 }, { step: 0.85 }),
  },
  { name: "sweep", title: "Step time by batch and length, 6 layers of width 384", run: sweepSection },
  { name: "prefix", title: "Frozen-prefix cache", run: prefixSection },
  { name: "recompute", title: "Recomputation", run: recomputeSection },
  {
    name: "quantized",
    title: "LoRA r=8 on a quantised GPT-2 124M against floats, batch 4 x 128",
    run: quantizedSection,
  },
  { name: "loss", title: "Cross-entropy memory", run: memorySection },
  { name: "levers", title: "Levers of memory and speed, GPT-2 124M, batch 4 x 128", run: leversSection },
  { name: "plan", title: "Memory plan", run: planSection },
  { name: "shared", title: "Two sessions on one weight file", run: sharedSection },
  { name: "conv", title: "LoRA r=8 on every convolution, ResNet-18, batch 8 x 128²", run: convSection },
  {
    name: "methods",
    title: "A step of every method, 6 layers of width 384, batch 4 x 128, rank 8",
    run: methodsSection,
  },
  { name: "import", title: "Opening an ONNX file of a 124M model", run: importSection },
  { name: "browser", title: "LoRA r=8 of the shipped model in Chromium, WASM, 4 x 128", run: browserSection },
];
