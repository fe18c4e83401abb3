import type { BatchState } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";

/** Which task each row is of, for batches that hold as many rows of each. */
export interface TaskBalance {
  /** A name for every row, in their order; at least two differ. */
  readonly tasks: readonly string[];
  /** Fewest rows of each task in a batch. Default 2: what a variance needs. */
  readonly minPerTask?: number | undefined;
}

/** Input `[rows]`, int32: which task each row of a batch is of, for what compares tasks (`alignTasks`). */
export const TASK_IDS = "task_ids";

/** Batches with equally many rows of every task, ordered task by task. */
export interface BalancedOrder {
  /** Names of the tasks, by id. */
  readonly names: readonly string[];
  /** Rows of a batch: of each task the same, so perhaps fewer than were asked for. */
  readonly rows: number;
  readonly batchesPerEpoch: number;
  /** From a position on, without end; a task whose rows are used up begins again in a new order. */
  batches(
    from: BatchState,
    seed: number,
  ): Generator<{ readonly items: readonly number[]; readonly state: BatchState }>;
  /** Feeds of a batch beside the rows' own; `each`: rows of the model per row. Default 1. */
  feeds(each?: number): Record<string, Tensor>;
}

/**
 * The order of batches that hold `floor(batchSize / tasks)` rows of every task. Throws `config-invalid` for fewer than two
 * tasks, where a batch would hold fewer than `minPerTask` of one, and for a list of another length than the rows.
 */
export function balancedOrder(
  { tasks, minPerTask = 2 }: TaskBalance,
  { batchSize, rows: count }: { readonly batchSize: number; readonly rows: number },
): BalancedOrder {
  if (tasks.length !== count) {
    throw new TunesmithError("config-invalid", `${tasks.length} tasks are named for ${count} rows`, {
      fix: "name the task of every row; rows that are cut into several have no one task",
    });
  }
  const names = [...new Set(tasks)].sort();
  if (names.length < 2) {
    throw new TunesmithError(
      "config-invalid",
      `the rows are of ${names.length || "no"} task, not of several`,
      {
        fix: "give rows a field 'task' with at least two different names, or a data file per task",
      },
    );
  }
  const each = Math.floor(batchSize / names.length);
  if (each < Math.max(1, minPerTask)) {
    throw new TunesmithError(
      "config-invalid",
      `a batch of ${batchSize} rows holds ${each} of each of ${names.length} tasks, fewer than ${minPerTask}`,
      { fix: `raise the batch size to at least ${names.length * Math.max(1, minPerTask)}` },
    );
  }
  const members = names.map((name) => tasks.flatMap((task, at) => (task === name ? [at] : [])));
  const rows = each * names.length;
  const batchesPerEpoch = Math.ceil(tasks.length / rows);
  return {
    names,
    rows,
    batchesPerEpoch,
    *batches(from, seed) {
      const draws = members.map((own, task) => cyclic(own, (round) => rng(seed, "tasks", task, round)));
      for (let { epoch, step } = from; ; step++) {
        if (step >= batchesPerEpoch) [epoch, step] = [epoch + 1, 0];
        const first = (epoch * batchesPerEpoch + step) * each;
        const items = draws.flatMap((draw) => Array.from({ length: each }, (_, at) => draw(first + at)));
        yield { items, state: { epoch, step: step + 1 } };
      }
    },
    feeds: (perRow = 1) => ({
      [TASK_IDS]: tensor(
        "int32",
        [rows * perRow],
        Int32Array.from({ length: rows * perRow }, (_, at) => Math.floor(at / (each * perRow))),
      ),
    }),
  };
}

/** Item number `at` of a list that begins again, in another order, whenever it is used up. */
function cyclic(items: readonly number[], random: (round: number) => ReturnType<typeof rng>) {
  let known: { readonly round: number; readonly order: ArrayLike<number> } | undefined;
  return (at: number): number => {
    const round = Math.floor(at / items.length);
    if (known?.round !== round) known = { round, order: random(round).permutation(items.length) };
    return items[known.order[at % items.length] as number] as number;
  };
}
