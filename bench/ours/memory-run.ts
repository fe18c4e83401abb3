/**
 * One short training run in a process of its own: what the memory plan said before its first step, and what the process
 * then took. `node scripts/run-ts.mjs bench/ours/memory-run.ts '{"model": "DIR", "batch": 4, "length": 128}'`
 */
import { readFileSync, writeFileSync } from "node:fs";
import { packExamples } from "../../src/data/index.js";
import { adapt, lora, unfreeze } from "../../src/methods/index.js";
import { type CausalLm, initModel, initTensorModel, loadModel, type Model } from "../../src/models/index.js";
import {
  classification,
  createOptimizer,
  fit,
  memoryPlan,
  nextToken,
  type Objective,
  type StepShape,
  tensorObjective,
} from "../../src/training/index.js";

export interface MemoryRun {
  /** A folder or file; default: a random network of `config`. */
  readonly model?: string;
  readonly config?: Record<string, unknown>;
  readonly task?: "lm" | "images";
  readonly method?: "lora" | "full";
  readonly target?: string;
  readonly layersFrom?: number;
  readonly batch: number;
  readonly length: number;
  readonly recompute?: boolean | number;
  readonly accumulate?: number;
  readonly optimizer?: string;
  readonly patience?: number;
  readonly prefixCache?: number;
  readonly chunkRows?: number;
  readonly prepack?: boolean;
  readonly steps?: number;
}

const wanted = JSON.parse(process.argv[2] ?? "{}") as MemoryRun;
const { batch, length, accumulate = 1, steps = 3, patience, prefixCache = 0, recompute = false } = wanted;

const status = (key: string) =>
  1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"))?.[1]);

async function languageRun(): Promise<[Objective, StepShape]> {
  const base = wanted.model ? ((await loadModel(wanted.model)) as CausalLm) : initModel(wanted.config ?? {});
  const from = wanted.layersFrom ?? 0;
  const layers = Array.from({ length: base.sizes.layers }, (_, at) => at).filter((at) => at >= from);
  const targets = wanted.target ? [wanted.target] : "all-linear";
  const model =
    wanted.method === "full"
      ? await unfreeze(base)
      : await adapt(base, lora({ rank: 8, targets, ...(from > 0 ? { layers } : {}) }));
  const rows = Array.from({ length: 3 * batch * accumulate }, (_, row) => ({
    ids: Int32Array.from({ length }, (_, at) => (row * 7919 + at * 31 + 13) % base.sizes.vocabSize),
    lossMask: new Uint8Array(length).fill(1, 1),
  }));
  const packs = packExamples(rows, { length, strategy: "none" });
  const objective = nextToken(model, {
    train: packs,
    ...(patience ? { validation: packs.slice(0, batch) } : {}),
    batchSize: batch,
    lengths: [length],
    padId: 0,
    chunkRows: wanted.chunkRows,
  });
  return [objective, { batch, length }];
}

/** Images of `length` by `length` points. */
async function imageRun(): Promise<[Objective, StepShape]> {
  const labels = ["a", "b", "c"];
  const model = await unfreeze(
    initTensorModel(wanted.config ?? {}, { task: "image-classification", labels }),
  );
  const train = {
    size: 3 * batch * accumulate,
    hash: "images",
    at: (index: number) => ({
      inputs: {
        pixel_values: {
          dtype: "float32" as const,
          shape: [3, length, length],
          data: Float32Array.from({ length: 3 * length * length }, (_, at) => Math.sin(index + at)),
        },
      },
      targets: { label: { dtype: "int64" as const, shape: [], data: BigInt64Array.of(BigInt(index % 3)) } },
    }),
  };
  return [tensorObjective(model, { train, batchSize: batch, loss: classification() }), { batch }];
}

const [objective, shape]: [Objective<Model>, StepShape] =
  wanted.task === "images" ? await imageRun() : await languageRun();
const optimizer = createOptimizer(wanted.optimizer ?? "adamw", {});
const session = { threads: 2, ...(wanted.prepack === undefined ? {} : { prepack: wanted.prepack }) };
const common = { recompute, optimizer, accumulate, steps, session, prefixCacheBytes: prefixCache };
const plan = memoryPlan(objective, shape, { ...common, keepsBest: patience !== undefined });
const before = status("VmRSS");
// Forgets the highest value so far.
writeFileSync("/proc/self/clear_refs", "5");
const seconds: number[] = [];
let last = performance.now();
await fit(objective, {
  ...common,
  ...(patience ? { patience, evalEvery: 1 } : {}),
  onEvent(event) {
    if (event.type !== "step") return;
    seconds.push((performance.now() - last) / 1000);
    last = performance.now();
  },
});
const [peak, predicted] = [status("VmHWM"), before + plan.total];
console.log(
  JSON.stringify({
    ...wanted,
    plan,
    before,
    peak,
    predicted,
    grown: peak - before,
    ratio: predicted / peak,
    seconds,
  }),
);
