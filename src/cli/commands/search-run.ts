import { fileExists, joinPath, makeDir, readText, remove, writeFileAtomic } from "#io";
import { type Row, splitDataset } from "../../data/index.js";
import {
  applyMethod,
  leastEigenvalue,
  type MethodSearch,
  type ModuleTable,
  methodNamed,
  moduleKernels,
} from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import { rng } from "../../runtime/index.js";
import { listCheckpoints, type Objective } from "../../training/index.js";
import type { Context } from "../command.js";
import { columns } from "../tracking/text.js";
import type { Ui } from "../ui.js";
import { sessionOf } from "../work.js";
import { optimizerOf, type RunConfig } from "./prepare-run.js";
import { runIdentity } from "./run-identity.js";

/** What a method decided before its run. */
export interface SearchReport {
  readonly steps: number;
  readonly table: ModuleTable;
  /** Least eigenvalue of the kernel of the selected modules, of all, and of random choices of as many. */
  readonly leastEigenvalue?: { readonly selected: number; readonly all: number; readonly random: number };
  /** The method's options that give the same modules without a search. */
  readonly found: Readonly<Record<string, unknown>>;
}

/** Rows as an objective over a model. */
type Make<M extends Model> = (
  model: M,
  part: { readonly train: readonly Row[]; readonly batchSize: number },
) => Promise<{ readonly objective: Objective; readonly batchesPerEpoch: number }>;

interface Searching {
  readonly config: RunConfig;
  readonly options: Readonly<Record<string, unknown>>;
  /** Those to train on. */
  readonly rows: readonly Row[];
  readonly context: Context;
}

/** Share of a run's steps that its search takes beside them. */
const SHARE = 0.25;

const runDirOf = ({ runDir, out }: RunConfig): string => runDir ?? joinPath(out, ".run");
const fileOf = (config: RunConfig): string => joinPath(runDirOf(config), "search.json");

/**
 * The model after what its method decides before a run; undefined where it decides nothing. A run that is continued keeps
 * what was decided at its start, or goes on deciding where it was.
 */
export async function searched<M extends Model>(
  base: M,
  given: Searching,
  make: Make<M>,
): Promise<{ readonly model: M; readonly report: SearchReport } | undefined> {
  const { config, options, context } = given;
  const search = methodNamed(config.method).search?.(options);
  if (!search) return undefined;
  if (config.dryRun || config.findLr) {
    context.ui.note(`${config.method} searches before the run: what is shown is of all its candidates`);
    return undefined;
  }
  const kept = await decidedBefore(config, search);
  if (kept) {
    const model = await applyMethod(base, config.method, kept.found, { seed: config.seed });
    return { model, report: kept };
  }
  return searchNow(base, search, given, make);
}

/** The decisions of the run that is continued. Without a checkpoint of it, what was learnt with them is in the search's. */
async function decidedBefore(
  config: RunConfig,
  { warmStart }: MethodSearch,
): Promise<SearchReport | undefined> {
  const file = fileOf(config);
  if (!config.resume || !(await fileExists(file))) return undefined;
  if (warmStart && (await listCheckpoints(joinPath(file, ".."))).length === 0) return undefined;
  return JSON.parse(await readText(file)) as SearchReport;
}

async function searchNow<M extends Model>(
  base: M,
  search: MethodSearch,
  { config, options, rows, context }: Searching,
  make: Make<M>,
): Promise<{ readonly model: M; readonly report: SearchReport }> {
  const { ui, signal } = context;
  const { seed, batchSize, accumulate } = config;
  const session = sessionOf(config);
  // Another seed than that of the held-out rows, whose draws lie in one part of the range.
  const parts = splitDataset({ name: "the data", rows }, { validation: 1 - search.split, seed: seed + 1 });
  const halves = { updates: parts.train, gates: parts.validation };
  const all = await applyMethod(base, config.method, options, { seed });
  const { batchesPerEpoch } = await make(all, { train: rows, batchSize });
  const whole = config.steps ?? config.epochs * Math.ceil(batchesPerEpoch / accumulate);
  const steps = search.steps ?? Math.max(1, Math.ceil(SHARE * whole));
  if (!config.resume) await remove(fileOf(config));
  const bar = ui.progress("searching", steps);
  try {
    const { model, table, found } = await search.run(base, {
      objective: async (own, half) => (await make(own, { train: halves[half], batchSize })).objective,
      ...{ steps, accumulate, seed, session, signal },
      optimizer: optimizerOf(config, steps, all),
      ...{ runDir: joinPath(runDirOf(config), "search"), resume: config.resume, saveEvery: config.saveEvery },
      config: runIdentity(config, steps),
      onResume: (step) => ui.note(`continuing the search after step ${step}`),
      onGates: ({ step, gateLoss }) => bar.update(step, `loss ${gateLoss.toFixed(4)}`),
    });
    const kernels = await kernelsOf(
      search,
      all,
      table,
      () => make(all, { train: halves.gates, batchSize: 1 }),
      {
        ...{ seed, session },
      },
    );
    const report = { steps, table, found, ...(kernels ? { leastEigenvalue: kernels } : {}) };
    shown(report, ui);
    return { model, report };
  } finally {
    bar.stop();
  }
}

/** The diagnostic of the choice, where it is asked for. */
async function kernelsOf(
  { kernelSamples: samples }: MethodSearch,
  model: Model,
  { selected, ...table }: ModuleTable,
  make: () => Promise<{ readonly objective: Objective }>,
  how: { readonly seed: number; readonly session: ReturnType<typeof sessionOf> },
): Promise<SearchReport["leastEigenvalue"]> {
  if (samples === 0) return undefined;
  const paths = table.layers.flatMap((layer, row) =>
    table.kinds.flatMap((kind, at) =>
      table.table[row]?.[at] === null ? [] : [[layer, kind].filter((part) => part !== "").join(".")],
    ),
  );
  const { objective } = await make();
  const kernels = await moduleKernels({ ...objective, model }, { modules: paths, samples, ...how });
  const random = rng(how.seed, "random-modules");
  const draws = Array.from({ length: 20 }, () => {
    const order = Array.from(random.permutation(paths.length)).slice(0, selected.length);
    return leastEigenvalue(
      kernels,
      order.map((at) => paths[at] as string),
    );
  });
  return {
    selected: leastEigenvalue(kernels, selected),
    all: leastEigenvalue(kernels, paths),
    random: draws.reduce((sum, value) => sum + value, 0) / draws.length,
  };
}

/** Gates by layer and kind; those that stay are marked. */
function shown({ steps, table, leastEigenvalue: kernel }: SearchReport, ui: Ui): void {
  const cell = (row: number, at: number) => {
    const gate = table.gates[row]?.[at];
    return typeof gate === "number" ? `${gate.toFixed(2)}${table.table[row]?.[at] === 1 ? "*" : " "}` : "";
  };
  ui.say(`after ${steps} steps of search, ${table.selected.length} modules (*) are trained:`);
  ui.say(
    columns(
      ["layer", ...table.kinds],
      table.layers.map((layer, row) => [layer, ...table.kinds.map((_, at) => cell(row, at))]),
    ),
  );
  if (!kernel) return;
  const [own, random, all] = [kernel.selected, kernel.random, kernel.all].map((value) =>
    value.toExponential(2),
  );
  ui.say(`least eigenvalue of their kernel ${own}; of as many at random ${random}; of all ${all}`);
}

/** Keeps a run's decisions beside its checkpoints, so that it can be continued, and beside its result. */
export async function recordSearch(
  config: RunConfig,
  report: SearchReport | undefined,
  where: "run" | "result",
): Promise<void> {
  if (!report) return;
  const file = where === "run" ? fileOf(config) : joinPath(config.out, "modules.json");
  await makeDir(joinPath(file, ".."));
  const { found, ...rest } = report;
  const content = where === "run" ? report : rest;
  await writeFileAtomic(file, `${JSON.stringify(content, undefined, 2)}\n`);
}
