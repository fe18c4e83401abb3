import { isAdapted, isUnfrozen } from "../../methods/index.js";
import { type MemoryPlan, memoryPlan, nextToken, stateFactor } from "../../training/index.js";
import { formatBytes, table, type Ui } from "../ui.js";
import { type Prepared, type RunConfig, trainableCount } from "./train.js";

/** Prints what a run would do. */
export function dryRun(config: RunConfig, prepared: Prepared, ui: Ui): void {
  const { model, steps, stepsPerEpoch, lengths } = prepared;
  const parameters = trainableCount(model);
  const sites = trainedPlaces(prepared);
  const { padId } = prepared;
  const { batchSize } = config;
  const shape = { batch: batchSize, length: Math.max(...lengths) };
  const memory = memoryPlan(nextToken(model, { batchSize, lengths, padId }), shape, {
    recompute: config.recompute,
    stateFactor: stateFactor(prepared.optimizer),
  });
  const histogram = rowHistogram(prepared);
  ui.say(`\n${sites.length} places are trained`);
  for (const place of sites.slice(0, 12)) ui.say(`  ${place}`);
  if (sites.length > 12) ui.say(`  ... and ${sites.length - 12} more`);
  ui.say("\nmemory (estimate)");
  ui.say(memoryTable(memory));
  ui.say("\nrows by length");
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
    rows: prepared.train.length,
    rowLengths: histogram,
  });
}

function trainedPlaces({ model }: Prepared): string[] {
  if (isUnfrozen(model)) return [...model.unfrozen.keys()];
  if (!isAdapted(model)) return [];
  return [...model.adapters.values()].flatMap(({ sites, saved, tokens }) => [
    ...sites.keys(),
    ...saved.map(({ path, leaf }) => `${path}.${leaf}`),
    ...tokens.map(({ path }) => `${path} (token rows)`),
  ]);
}

const memoryTable = (memory: MemoryPlan): string =>
  table([
    ["weights", `${formatBytes(memory.weights)} (mapped from the file)`],
    ["parameters", formatBytes(memory.parameters)],
    ["optimiser", formatBytes(memory.optimizer)],
    ["a step", `${formatBytes(memory.activations)} (activations and gradients)`],
    ["sum", formatBytes(memory.total)],
  ]);

interface Bin {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
}

const BINS = 8;

function rowHistogram({ train, lengths }: Prepared): Bin[] {
  const width = Math.ceil(Math.max(...lengths) / BINS);
  return Array.from({ length: BINS }, (_, index) => {
    const [from, to] = [index * width + 1, (index + 1) * width];
    return { from, to, rows: train.filter(({ tokens }) => tokens >= from && tokens <= to).length };
  });
}

const bar = (rows: number, bins: readonly Bin[]): number =>
  Math.round((30 * rows) / Math.max(1, ...bins.map((bin) => bin.rows)));
