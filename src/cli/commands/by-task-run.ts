import { type Row, tasksOf } from "../../data/index.js";
import { byTask, isAdapted, methodNamed } from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import type { Objective, PreparedObjective } from "../../training/index.js";
import type { RunConfig } from "./prepare-run.js";

interface Rows {
  readonly train: readonly Row[];
  readonly validation: readonly Row[];
}

/** Tasks of a run whose method learns them apart, in the order in which the data name them. */
export interface TaskRows {
  readonly names: readonly string[];
  readonly parts: readonly Rows[];
}

/**
 * The rows of each task, where the method learns several and the rows say which they are of; undefined otherwise. Throws
 * `data-invalid` when only some rows do.
 */
export function rowsByTask({ method }: RunConfig, { train, validation }: Rows): TaskRows | undefined {
  if (!methodNamed(method).learnsTasks || train.every(({ task }) => task === undefined)) return undefined;
  const [own, held] = [tasksOf(train), tasksOf(validation)];
  const names = [...new Set([...own, ...held])];
  const of = (rows: readonly Row[], tasks: readonly string[], name: string) =>
    rows.filter((_, at) => tasks[at] === name);
  const parts = names.map((name) => ({
    train: of(train, own, name),
    validation: of(validation, held, name),
  }));
  return { names, parts };
}

/** The method's options, for as many tasks as there are where it is told of fewer than two. */
export function withTasks(
  options: Record<string, unknown>,
  tasks: TaskRows | undefined,
): Record<string, unknown> {
  const told = Number(options.tasks ?? 1);
  return tasks && told < 2 ? { ...options, tasks: tasks.names.length } : options;
}

/** One objective of several over a model, a task each; the one itself where there are no tasks. */
export function joinedByTask<M extends Model>(
  model: M,
  tasks: TaskRows | undefined,
  objectives: readonly Objective<M>[],
): Objective<M> {
  if (tasks && isAdapted(model)) return byTask(model, objectives, { titles: tasks.names });
  return objectives[0] as Objective<M>;
}

/** What is prepared for every task, together; without tasks what is prepared for all rows. */
export async function preparedByTask<M extends Model>(
  model: M,
  tasks: TaskRows | undefined,
  prepare: (part?: Rows) => Promise<PreparedObjective>,
): Promise<PreparedObjective> {
  if (!tasks) return prepare();
  const all: PreparedObjective[] = [];
  for (const part of tasks.parts) all.push(await prepare(part));
  const sum = (of: (one: PreparedObjective) => number) => all.reduce((total, one) => total + of(one), 0);
  const objectives = all.map(({ objective }) => objective) as unknown as Objective<M>[];
  const lengths = [...new Set(all.flatMap((one) => one.lengths))].toSorted((a, b) => a - b);
  const largest = lengths.at(-1);
  const task = all.findIndex((one) => largest !== undefined && one.lengths.includes(largest));
  return {
    objective: joinedByTask(model, tasks, objectives) as unknown as PreparedObjective["objective"],
    lengths,
    rowTokens: all.flatMap(({ rowTokens }) => rowTokens),
    shape: { ...(all[task] as PreparedObjective).shape, task },
    examples: sum(({ examples }) => examples),
    batchesPerEpoch: sum(({ batchesPerEpoch }) => batchesPerEpoch),
    trainedTokens: sum(({ trainedTokens }) => trainedTokens),
    heldOutTokens: sum(({ heldOutTokens }) => heldOutTokens),
    truncated: sum(({ truncated }) => truncated),
    eosMissing: all.some(({ eosMissing }) => eosMissing),
  };
}
