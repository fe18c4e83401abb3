import { type Row, tasksOf } from "../../data/index.js";
import { alignTasks } from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import type { TrainConfig } from "../config/schema.js";

/** What the run's batches must hold, where tasks are to be aligned. */
export const balanceOf = ({ alignment }: TrainConfig) => alignment && { minPerTask: alignment.minPerTask };

/** The model with the term that draws its tasks together, where that is asked for. */
export function aligned<M extends Model>(model: M, { alignment }: TrainConfig, rows: readonly Row[]): M {
  if (!alignment) return model;
  const { minPerTask: _, ...options } = alignment;
  return alignTasks(model, { ...options, tasks: new Set(tasksOf(rows)).size });
}
