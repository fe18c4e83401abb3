import { TunesmithError } from "../errors/index.js";
import type { MemoryPlan, MemoryPlanOptions } from "./memory-plan.js";

/** What of a run can be changed to take less memory, without changing what is learnt but for rounding and 8-bit state. */
export interface MemoryLevers {
  readonly batchSize: number;
  readonly accumulate: number;
  /** Blocks that are recomputed. */
  readonly recompute: number;
  /** Rows of logits at one time; undefined: the default. */
  readonly chunkRows: number | undefined;
  readonly prefixCacheBytes: number;
  /** undefined: the runtime's default. */
  readonly prepack: boolean | undefined;
  /** Bits of a number of the optimiser's state. */
  readonly stateBits: 8 | 32;
}

export interface LeverMove {
  readonly lever: keyof MemoryLevers;
  readonly from: unknown;
  readonly to: unknown;
  /** Predicted peak before and after, in bytes. */
  readonly before: number;
  readonly after: number;
  /** What it costs. */
  readonly cost: string;
}

export interface MemoryChoice {
  readonly levers: MemoryLevers;
  readonly plan: MemoryPlan;
  /** What was changed, in order; empty when the run fits as it is. */
  readonly moves: readonly LeverMove[];
}

export interface FitMemoryOptions {
  /** Bytes the process may take at its peak. */
  readonly budget: number;
  readonly levers: MemoryLevers;
  /** Blocks of the model; 0 where they are not recognised, and nothing can be recomputed. */
  readonly blocks: number;
  /** Whether the optimiser's state may be kept in 8 bits. */
  readonly canQuantizeState?: boolean;
  readonly planOf: (levers: MemoryLevers) => MemoryPlan;
}

const peakOf = ({ peak, total }: MemoryPlan): number => peak ?? total;
const megabytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MB`;

type Change = Pick<LeverMove, "lever" | "cost"> & { readonly to: Partial<MemoryLevers> };

/** Changes in the order in which they are tried: what costs least first. */
function* changes({
  levers,
  blocks,
  canQuantizeState = true,
}: FitMemoryOptions): Generator<readonly Change[]> {
  if (levers.prefixCacheBytes > 0)
    yield [{ lever: "prefixCacheBytes", to: { prefixCacheBytes: 0 }, cost: "frozen blocks run every epoch" }];
  if (levers.prepack !== false)
    yield [{ lever: "prepack", to: { prepack: false }, cost: "a step takes 2 to 12 % longer" }];
  if (levers.chunkRows === undefined || levers.chunkRows > 16)
    yield [{ lever: "chunkRows", to: { chunkRows: 16 }, cost: "smaller products in the output head" }];
  // As few blocks as suffice.
  if (levers.recompute < blocks)
    yield Array.from({ length: blocks - levers.recompute }, (_, at) => ({
      lever: "recompute" as const,
      to: { recompute: levers.recompute + at + 1 },
      cost: "their forward pass runs twice: up to a third more time",
    }));
  const halves = smallerBatches(levers);
  if (halves.length > 0)
    yield halves.map((to) => ({
      lever: "batchSize" as const,
      to,
      cost: "more, smaller batches for an update",
    }));
  if (canQuantizeState && levers.stateBits === 32)
    yield [{ lever: "stateBits", to: { stateBits: 8 }, cost: "the optimiser's state is rounded" }];
}

/** The same rows for an update in smaller batches. */
function smallerBatches({ batchSize, accumulate }: MemoryLevers): Partial<MemoryLevers>[] {
  const rows = batchSize * accumulate;
  return Array.from({ length: batchSize - 1 }, (_, at) => batchSize - 1 - at)
    .filter((size) => rows % size === 0)
    .map((size) => ({ batchSize: size, accumulate: rows / size }));
}

/**
 * Changes a run until its predicted peak fits a budget, as little as that takes: kept activations, repacked weights, rows of
 * logits, recomputed blocks, smaller batches of the same updates, 8-bit optimiser state, in this order. Changes that do not
 * help are not made. The same input gives the same choice.
 *
 * @throws `out-of-memory` when all of it is not enough, with the plan and what else would help.
 *
 * @example
 * ```ts
 * import { fitMemory, type MemoryLevers, type MemoryPlan } from "tunesmith/training";
 * export function choose(levers: MemoryLevers, planOf: (levers: MemoryLevers) => MemoryPlan) {
 *   const { moves } = fitMemory({ budget: 2 * 2 ** 30, levers, blocks: 12, planOf });
 *   for (const { lever, from, to, cost } of moves) console.log(`${lever}: ${from} -> ${to} (${cost})`);
 * }
 * ```
 */
export function fitMemory(options: FitMemoryOptions): MemoryChoice {
  const { budget, planOf } = options;
  let levers = options.levers;
  let plan = planOf(levers);
  const moves: LeverMove[] = [];
  for (const steps of changes(options)) {
    if (peakOf(plan) <= budget) break;
    const tried = firstThatFits(steps, (to) => planOf({ ...levers, ...to }), budget);
    if (peakOf(tried.plan) >= peakOf(plan)) continue;
    const { lever, to, cost } = tried.change;
    moves.push({
      lever,
      from: levers[lever],
      to: to[lever],
      before: peakOf(plan),
      after: peakOf(tried.plan),
      cost,
    });
    levers = { ...levers, ...to };
    plan = tried.plan;
  }
  if (peakOf(plan) <= budget) return { levers, plan, moves };
  throw new TunesmithError(
    "out-of-memory",
    `the run needs ${megabytes(peakOf(plan))}, more than the ${megabytes(budget)} it may take`,
    {
      fix: [`allow ${megabytes(peakOf(plan))}`, ...beyond(plan)].join("; "),
      details: { plan, levers, budget },
    },
  );
}

/** The first of several changes, each taking less than the one before, that fits; the last when none does. */
function firstThatFits(
  steps: readonly Change[],
  planOf: (to: Partial<MemoryLevers>) => MemoryPlan,
  budget: number,
) {
  let [low, high] = [0, steps.length - 1];
  const at = (index: number) => {
    const change = steps[index] as Change;
    return { change, plan: planOf(change.to) };
  };
  let best = at(high);
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const tried = at(middle);
    if (peakOf(tried.plan) <= budget) [high, best] = [middle, tried];
    else low = middle + 1;
  }
  return best;
}

/** What would help beyond the levers: it changes what is learnt. */
function beyond(plan: MemoryPlan | undefined): string[] {
  return [
    "shorter rows (length)",
    "fewer targets or a lower rank",
    ...(plan && plan.optimizer > 0 ? ["an optimiser without state (sgd)"] : []),
    "a base quantised to int8 or nf4",
  ];
}

/** What makes a run take less memory, for an error that came without warning. */
export function memoryLevers(plan: MemoryPlan | undefined, options: MemoryPlanOptions): string[] {
  return [
    "a smaller batchSize with more accumulate",
    ...(options.recompute ? [] : ["recompute"]),
    ...(plan && plan.prefixCache > 0 ? ["no prefix cache"] : []),
    ...(plan && plan.packed > 0 ? ["session: { prepack: false }"] : []),
    "fewer chunkRows",
    ...(plan && plan.optimizer > plan.gradients ? ["stateBits: 8 for the optimiser"] : []),
    ...beyond(plan),
  ];
}
