import { TunesmithError } from "../errors/index.js";
import type { FitOptions } from "./fit-types.js";
import { fitMemory, type MemoryLevers } from "./memory-levers.js";
import { memoryPlan } from "./memory-plan.js";
import type { Objective, StepShape } from "./objective.js";

/** The options of a run whose recomputation is decided. */
export type FitSettings = Omit<FitOptions, "recompute"> & { readonly recompute?: boolean | number };

/** Blocks that can be recomputed; 0 where a model has none that are recognised. */
export function blocksOf(objective: Objective, shape: StepShape): number {
  const { passes } = objective.lossGraph(shape, { training: true });
  return passes.length === 1 ? Math.max(0, (passes[0]?.boundaries ?? []).length - 1) : 0;
}

/** Chooses what "auto" stands for. Throws `out-of-memory` for a run that will not fit its memory. */
export function withinMemory(objective: Objective, options: FitOptions): FitSettings {
  const { memory, recompute, ...rest } = options;
  const settings: FitSettings = {
    ...rest,
    memory,
    ...(recompute === "auto" || recompute === undefined ? {} : { recompute }),
  };
  if (!memory) {
    if (recompute !== "auto") return settings;
    throw new TunesmithError("config-invalid", "recompute: 'auto' needs memory, the bytes it is to fit", {
      fix: "give memory, or the number of blocks",
    });
  }
  const { shape, budget } = memory;
  const keepsBest = options.patience !== undefined;
  const blocks = recompute === "auto" ? blocksOf(objective, shape) : 0;
  // Only recomputation may be chosen here: all else is where its lever ends.
  const levers: MemoryLevers = {
    ...{ batchSize: 1, accumulate: 1, chunkRows: 1, prefixCacheBytes: 0, prepack: false, stateBits: 8 },
    recompute: 0,
  };
  const planOf = (now: MemoryLevers) =>
    memoryPlan(objective, shape, {
      ...{ ...settings, keepsBest },
      ...(recompute === "auto" ? { recompute: now.recompute } : {}),
    });
  const choice = fitMemory({ budget, levers, blocks, planOf });
  return recompute === "auto" ? { ...settings, recompute: choice.levers.recompute } : settings;
}
