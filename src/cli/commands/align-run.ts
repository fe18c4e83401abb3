import { type Row, tasksOf } from "../../data/index.js";
import { alignTasks, type TaskGap, taskGaps } from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import type { Objective } from "../../training/index.js";
import type { TrainConfig } from "../config/schema.js";
import type { Ui } from "../ui.js";
import { sessionOf } from "../work.js";

/** What the run's batches must hold, where tasks are to be aligned. */
export const balanceOf = ({ alignment }: TrainConfig) => alignment && { minPerTask: alignment.minPerTask };

/** The model with the term that draws its tasks together, where that is asked for. */
export function aligned<M extends Model>(model: M, { alignment }: TrainConfig, rows: readonly Row[]): M {
  if (!alignment) return model;
  const { minPerTask: _, ...options } = alignment;
  return alignTasks(model, { ...options, tasks: new Set(tasksOf(rows)).size });
}

/** Batches that distances are measured over. */
const MEASURED = 8;

/** How far apart the tasks are at each module, where they are to be aligned; says the mean. */
export async function gapsOf(
  objective: Objective,
  config: TrainConfig,
  ui: Ui,
  when: string,
): Promise<readonly TaskGap[] | undefined> {
  const { alignment, seed } = config;
  if (!alignment) return undefined;
  const gaps = await taskGaps(objective, { batches: MEASURED, seed, session: sessionOf(config) });
  const mean = gaps.reduce((sum, { dist }) => sum + dist, 0) / gaps.length;
  ui.say(
    `${when} tasks are ${mean.toPrecision(4)} apart (${alignment.kind}, mean of ${gaps.length} modules)`,
  );
  return gaps;
}
