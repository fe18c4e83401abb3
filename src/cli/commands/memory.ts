import { fileExists, joinPath, makeDir, readText, writeFileAtomic } from "#io";
import { processMemory } from "../../runtime/index.js";
import {
  blocksOf,
  fitMemory,
  type LeverMove,
  type MemoryLevers,
  type MemoryPlan,
  memoryPlan,
  stateFactor,
} from "../../training/index.js";
import type { Context } from "../command.js";
import { bytesIn } from "../config/flags.js";
import { formatBytes, table } from "../ui.js";
import { sessionOf } from "../work.js";
import { optimizerOf, type Prepared, prepareRun, type RunConfig } from "./prepare-run.js";

/** The plan of a run as it is configured, or with other levers. */
export function planRun(
  config: RunConfig,
  prepared: Prepared,
  levers = leversOf(config, prepared),
  inUse?: number,
): MemoryPlan {
  const { objective, shape, steps, model } = prepared;
  const batch = ((shape.batch as number) * levers.batchSize) / config.batchSize;
  const changed = withLevers(config, levers);
  return memoryPlan(
    objective,
    { ...shape, batch },
    {
      recompute: levers.recompute,
      chunkRows: levers.chunkRows,
      optimizer: optimizerOf(changed, steps, model),
      accumulate: levers.accumulate,
      keepsBest: config.patience !== undefined,
      prefixCacheBytes: levers.prefixCacheBytes,
      session: sessionOf(changed),
      steps,
      inUse,
    },
  );
}

function leversOf(config: RunConfig, { objective, shape }: Prepared): MemoryLevers {
  const blocks = config.recompute ? blocksOf(objective, shape) : 0;
  return {
    batchSize: config.batchSize,
    accumulate: config.accumulate,
    recompute: config.recomputeBlocks ?? blocks,
    chunkRows: config.chunkRows,
    prefixCacheBytes: bytesIn(config.prefixCache),
    prepack: config.prepack ? undefined : false,
    stateBits: config.optimizerOptions.stateBits === 8 ? 8 : 32,
  };
}

const withLevers = (config: RunConfig, levers: MemoryLevers): RunConfig => ({
  ...config,
  batchSize: levers.batchSize,
  accumulate: levers.accumulate,
  recompute: false,
  recomputeBlocks: levers.recompute === 0 ? undefined : levers.recompute,
  chunkRows: levers.chunkRows,
  prefixCache: levers.prefixCacheBytes,
  prepack: levers.prepack !== false,
  optimizerOptions:
    levers.stateBits === 8 ? { ...config.optimizerOptions, stateBits: 8 } : config.optimizerOptions,
});

/**
 * Makes a run fit `--memory`: says what it changed and why, and gives the run prepared anew where its batches changed. A
 * continued run keeps what was chosen at its start. Throws `out-of-memory` when nothing makes it fit.
 */
export async function fitRun(
  config: RunConfig,
  prepared: Prepared,
  context: Context,
): Promise<{ readonly config: RunConfig; readonly prepared: Prepared }> {
  if (config.memory === undefined) return { config, prepared };
  const { ui } = context;
  const file = joinPath(config.runDir ?? joinPath(config.out, ".run"), "memory.json");
  const kept = config.resume && (await fileExists(file)) ? JSON.parse(await readText(file)) : undefined;
  const levers = (kept as MemoryLevers | undefined) ?? choose(config, prepared, context);
  const changed = withLevers(config, levers);
  if (!config.dryRun && !kept) {
    await makeDir(joinPath(file, ".."));
    await writeFileAtomic(file, `${JSON.stringify(levers, undefined, 2)}\n`);
  }
  const sameBatches = changed.batchSize === config.batchSize && changed.accumulate === config.accumulate;
  if (sameBatches && changed.optimizerOptions === config.optimizerOptions)
    return { config: changed, prepared };
  ui.note("the run is prepared again with these settings");
  return { config: changed, prepared: await prepareRun(changed, context) };
}

function choose(config: RunConfig, prepared: Prepared, { ui }: Context): MemoryLevers {
  const budget = bytesIn(config.memory ?? 0);
  // Plans leave memory to be collected behind, which must not count against the next one.
  const inUse = processMemory();
  const { levers, plan, moves } = fitMemory({
    budget,
    levers: leversOf(config, prepared),
    blocks: blocksOf(prepared.objective, prepared.shape),
    canQuantizeState: stateFactor(prepared.optimizer) > 0,
    planOf: (now) => planRun(config, prepared, now, inUse),
  });
  ui.say(`memory ${formatBytes(plan.peak ?? plan.total)} of ${formatBytes(budget)} (estimate)`);
  if (moves.length > 0) ui.say(table(moves.map(described)));
  return levers;
}

const shown = (value: unknown): string => (value === undefined ? "default" : String(value));

const described = ({ lever, from, to, before, after, cost }: LeverMove): [string, string] => [
  lever,
  `${shown(from)} -> ${shown(to)}, ${formatBytes(before)} -> ${formatBytes(after)} (${cost})`,
];
