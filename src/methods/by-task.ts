import { TunesmithError } from "../errors/index.js";
import type { Model, Parameter } from "../models/index.js";
import { tensor } from "../tensor/index.js";
import type { Objective, ScoreKeeper, StepBatch } from "../training/index.js";
import { adapterNamed } from "./adapt.js";
import type { Adapted } from "./adapted.js";
import { checkTask, type PolyConfig, polyMethod, TASK_KEY } from "./lowrank/poly.js";

/** The switch of a Poly adapter, and how many tasks it has. */
function switchOf(model: Adapted, name: string): { readonly parameter: Parameter; readonly tasks: number } {
  const { shared, adaptation } = adapterNamed(model, name);
  const parameter = adaptation.method.name === polyMethod.name ? shared[TASK_KEY] : undefined;
  if (parameter) return { parameter, tasks: (adaptation.config as PolyConfig).tasks };
  throw new TunesmithError(
    "config-invalid",
    `adapter '${name}' is of ${adaptation.method.name}, which has no tasks`,
    { fix: "adapt with poly({ tasks })" },
  );
}

/**
 * Chooses the task that a Poly adapter works for from now on: in every graph over the model, when it is merged, and in the
 * folder it is saved to.
 *
 * Throws `config-invalid` for an adapter of another method and for a task that it does not have, `adapter-invalid` for an
 * unknown name.
 *
 * @param task From 0.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, merge, setTask } from "tunesmith/methods";
 * export function modelOfTask(model: AdaptedLm, task: number) {
 *   setTask(model, "default", task);
 *   return merge(model);
 * }
 * ```
 */
export function setTask(model: Adapted, name: string, task: number): void {
  const { parameter, tasks } = switchOf(model, name);
  checkTask(task, tasks);
  (parameter.tensor.data as BigInt64Array)[0] = BigInt(task);
}

/**
 * Training of a Poly adapter on several tasks: their objectives in turn, a micro-batch each, which brings its task's number with
 * it. The tasks are numbered as the objectives are. With as many micro-batches per update as tasks, every update
 * sees them all. Losses are added up over the items of an update; held-out scores are by task, `perplexity.0`, or as
 * `titles` call them.
 *
 * Throws `config-invalid` for more objectives than the adapter has tasks, or objectives of another model.
 *
 * @param options.name The adapter. Default "default".
 * @param options.titles Names of the tasks, for scores. Default: their numbers.
 *
 * @example
 * ```ts
 * import type { Pack } from "tunesmith/data";
 * import { type AdaptedLm, byTask } from "tunesmith/methods";
 * import { adamw, fit, nextToken } from "tunesmith/training";
 * export const train = (model: AdaptedLm, tasks: readonly (readonly Pack[])[]) =>
 *   fit(
 *     byTask(model, tasks.map((rows) => nextToken(model, { train: rows, batchSize: 4, lengths: [64], padId: 0 }))),
 *     { steps: 100, accumulate: tasks.length, optimizer: adamw({ lr: 1e-3 }) },
 *   );
 * ```
 */
export function byTask<M extends Model>(
  model: Adapted<M>,
  objectives: readonly Objective<M>[],
  { name = "default", titles }: { readonly name?: string; readonly titles?: readonly string[] } = {},
): Objective<M> {
  const { parameter, tasks } = switchOf(model, name);
  checkTask(objectives.length - 1, tasks);
  if (objectives.some((each) => each.model !== model)) {
    throw new TunesmithError("config-invalid", "byTask: an objective is of another model", {
      fix: "make all of them over the adapted model",
    });
  }
  const held = objectives.flatMap(({ validation }, task) => (validation ? [{ task, validation }] : []));
  const ofTask = (batch: StepBatch, task: number): StepBatch => ({
    ...batch,
    shape: { ...batch.shape, task },
    feeds: { ...batch.feeds, [parameter.name]: tensor("int64", [], [BigInt(task)]) },
    ...(batch.rows ? { rows: batch.rows.map((row) => `${task}/${row}`) } : {}),
  });
  return {
    name: `by-task(${[...new Set(objectives.map((each) => each.name))].join(", ")})`,
    model,
    identity: { tasks: objectives.map(({ identity }) => ({ ...identity })) },
    lossGraph({ task, ...shape }, how) {
      return (objectives[task as number] as Objective<M>).lossGraph(shape, how);
    },
    async *batches(from, seed) {
      const sources = objectives.map((each) => each.batches({ epoch: 0, step: 0 }, seed));
      for (let step = 0; ; step++) {
        const task = step % sources.length;
        const next = await (sources[task] as AsyncIterator<StepBatch>).next();
        if (next.done) return;
        if (step >= from.step) yield { ...ofTask(next.value, task), state: { epoch: 0, step: step + 1 } };
      }
    },
    ...(held.length > 0
      ? {
          async *validation() {
            for (const { task, validation } of held)
              for await (const batch of validation()) yield ofTask(batch, task);
          },
        }
      : {}),
    scores: () => scoresByTask(objectives, titles),
  };
}

/** Every objective's own scores, its task's number or title behind their names. */
function scoresByTask(objectives: readonly Objective[], titles: readonly string[] = []): ScoreKeeper {
  const keepers = objectives.map(({ scores }) => scores?.());
  const seen = new Set<number>();
  return {
    add(outputs, batch) {
      const task = batch.shape.task as number;
      seen.add(task);
      keepers[task]?.add(outputs, batch);
    },
    result: () =>
      Object.fromEntries(
        [...seen].flatMap((task) =>
          Object.entries(keepers[task]?.result() ?? {}).map(([score, value]) => [
            `${score}.${titles[task] ?? task}`,
            value,
          ]),
        ),
      ),
  };
}
