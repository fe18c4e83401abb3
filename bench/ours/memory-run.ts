/**
 * One short training run in a process of its own: what the memory plan said before its first step, and what the process
 * then took. `node scripts/run-ts.mjs bench/ours/memory-run.ts '{"model": "DIR", "batch": 4, "length": 128}'`
 */
import { readFileSync, writeFileSync } from "node:fs";
import { packExamples } from "../../src/data/index.js";
import { adapt, lora, unfreeze } from "../../src/methods/index.js";
import { type CausalLm, initModel, loadModel, type Model } from "../../src/models/index.js";
import { createOptimizer, fit, memoryPlan, nextToken, type Objective } from "../../src/training/index.js";

interface Wanted {
  /** A folder or file; default: a random network of `config`. */
  readonly model?: string;
  readonly config?: Record<string, unknown>;
  readonly method?: "lora" | "full";
  readonly targets?: string;
  readonly batch: number;
  readonly length: number;
  readonly recompute?: boolean;
  readonly accumulate?: number;
  readonly optimizer?: string;
  readonly patience?: number;
  readonly prefixCache?: number;
  readonly prepack?: boolean;
  readonly layersFrom?: number;
  readonly steps?: number;
}

const wanted = JSON.parse(process.argv[2] ?? "{}") as Wanted;
const status = (key: string) =>
  1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"))?.[1]);

const { batch, length, recompute = false, accumulate = 1, patience, prefixCache = 0 } = wanted;
const base = wanted.model ? ((await loadModel(wanted.model)) as CausalLm) : initModel(wanted.config ?? {});
const from = wanted.layersFrom ?? 0;
const layers = Array.from({ length: base.sizes.layers }, (_, at) => at).filter((at) => at >= from);
const model =
  wanted.method === "full"
    ? await unfreeze(base)
    : await adapt(
        base,
        lora({
          rank: 8,
          targets: wanted.targets ? [wanted.targets] : "all-linear",
          ...(from > 0 ? { layers } : {}),
        }),
      );
const rows = Array.from({ length: 3 * batch * accumulate }, (_, row) => ({
  ids: Int32Array.from({ length }, (_, at) => (row * 7919 + at * 31 + 13) % base.sizes.vocabSize),
  lossMask: new Uint8Array(length).fill(1, 1),
}));
const packs = packExamples(rows, { length, strategy: "none" });
const objective: Objective<Model> = nextToken(model, {
  train: packs,
  ...(patience ? { validation: packs.slice(0, batch) } : {}),
  batchSize: batch,
  lengths: [length],
  padId: 0,
}) as never;
const optimizer = createOptimizer(wanted.optimizer ?? "adamw", {});
const session = { threads: 2, ...(wanted.prepack === undefined ? {} : { prepack: wanted.prepack }) };
const plan = memoryPlan(
  objective,
  { batch, length },
  {
    recompute,
    optimizer,
    accumulate,
    keepsBest: patience !== undefined,
    prefixCacheBytes: prefixCache,
    session,
  },
);
const before = status("VmRSS");
writeFileSync("/proc/self/clear_refs", "5");
const seconds: number[] = [];
let last = performance.now();
await fit(objective, {
  steps: wanted.steps ?? 3,
  optimizer,
  accumulate,
  recompute,
  session,
  ...(patience ? { patience, evalEvery: 1 } : {}),
  ...(prefixCache ? { prefixCacheBytes: prefixCache } : {}),
  onEvent(event) {
    if (event.type !== "step") return;
    seconds.push((performance.now() - last) / 1000);
    last = performance.now();
    if (process.env.TRACE)
      console.error(
        event.step,
        (status("VmHWM") / 2 ** 20).toFixed(1),
        status("RssFile") / 2 ** 20,
        status("RssAnon") / 2 ** 20,
      );
  },
});
const peak = status("VmHWM");
console.log(
  JSON.stringify({
    ...wanted,
    plan,
    before,
    peak,
    predicted: before + plan.total,
    ratio: (before + plan.total) / peak,
    growthRatio: plan.total / (peak - before),
    seconds,
  }),
);
