import { isAdapted, isMpoModel, isUnfrozen, trainableCount } from "../../methods/index.js";
import { type MemoryPlan, stepCost } from "../../training/index.js";
import { formatBytes, table, type Ui } from "../ui.js";
import { planRun } from "./memory.js";
import type { Prepared, RunConfig } from "./prepare-run.js";

/** Prints what a run would do. */
export function dryRun(config: RunConfig, prepared: Prepared, ui: Ui): void {
  const { model, steps, stepsPerEpoch, objective, shape } = prepared;
  const parameters = trainableCount(model);
  const sites = trainedPlaces(prepared);
  const memory = planRun(config, prepared);
  const cost = stepCost(objective, shape, { recompute: config.recompute, chunkRows: config.chunkRows });
  const histogram = rowHistogram(prepared);
  ui.say(`\n${sites.length} places are trained`);
  for (const place of sites.slice(0, 12)) ui.say(`  ${place}`);
  if (sites.length > 12) ui.say(`  ... and ${sites.length - 12} more`);
  ui.say("\nmemory (estimate)");
  ui.say(memoryTable(memory));
  ui.say("\na batch's work");
  ui.say(
    table([
      ["matrix products", `${(cost.productFlops / 1e9).toFixed(2)} GFLOP`],
      ["other operators, read and written", formatBytes(cost.passBytes)],
      ["operators", String(cost.operators)],
    ]),
  );
  if (histogram.length > 0) ui.say("\nrows by length");
  ui.say(
    table(
      histogram.map(({ from, to, rows }) => [`${from}-${to}`, `${rows} ${"#".repeat(bar(rows, histogram))}`]),
    ),
  );
  ui.result({
    dryRun: true,
    method: config.method,
    trainableParameters: parameters,
    sites,
    steps,
    stepsPerEpoch,
    memory: { ...memory, estimate: true },
    batchCost: cost,
    rows: prepared.rows,
    rowLengths: histogram,
  });
}

function trainedPlaces({ model }: Prepared): string[] {
  if (isUnfrozen(model)) return [...model.unfrozen.keys()];
  if (isMpoModel(model)) return model.chains.groups.flatMap(({ maps }) => maps.map(({ path }) => path));
  if (!isAdapted(model)) return [];
  return [...model.adapters.values()].flatMap(({ sites, saved, tokens }) => [
    ...sites.keys(),
    ...saved.map(({ path, leaf }) => `${path}.${leaf}`),
    ...tokens.map(({ path }) => `${path} (token rows)`),
  ]);
}

/** A memory plan as rows of a table; what takes nothing is left out. */
export function memoryTable(plan: MemoryPlan): string {
  const rows: [string, number | undefined][] = [
    ["weights, mapped from their file", plan.weights],
    ["copies of weights", plan.packed],
    ["parameters", plan.parameters],
    ["gradients", plan.gradients],
    ["optimiser", plan.optimizer],
    ["a step", plan.activations],
    ["an evaluation", plan.evaluation],
    ["best parameters", plan.best],
    ["kept activations", plan.prefixCache],
    ["between threads", plan.transfers],
    ["runtime", plan.runtime],
    ["sum", plan.total],
    ["in use already", plan.inUse],
    ["peak", plan.peak],
  ];
  return table(rows.flatMap(([name, bytes]) => (bytes ? [[name, formatBytes(bytes)] as const] : [])));
}

interface Bin {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
}

const BINS = 8;

function rowHistogram({ rowTokens }: Prepared): Bin[] {
  if (rowTokens.length === 0) return [];
  const width = Math.ceil(Math.max(...rowTokens) / BINS);
  return Array.from({ length: BINS }, (_, index) => {
    const [from, to] = [index * width + 1, (index + 1) * width];
    return { from, to, rows: rowTokens.filter((tokens) => tokens >= from && tokens <= to).length };
  });
}

const bar = (rows: number, bins: readonly Bin[]): number =>
  Math.round((30 * rows) / Math.max(1, ...bins.map((bin) => bin.rows)));
