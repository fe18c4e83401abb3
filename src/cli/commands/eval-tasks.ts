import { basename, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  type DataTaskOptions,
  dataTask,
  type HarnessResults,
  loadTask,
  readRows,
  runTasks,
  scorePredictions,
} from "../../training/index.js";
import type { Context } from "../command.js";
import type { EvalConfig } from "../config/schema.js";
import { formatCount, table } from "../ui.js";
import { openAdapted, required, sessionOf } from "../work.js";

/** Runs the tasks that were named, or the one over a data file; prints scores, and writes results and examples. */
export async function runEvalTasks(config: EvalConfig, context: Context): Promise<void> {
  const { ui } = context;
  const results =
    config.task === "predictions" ? await predictions(config) : await withModel(config, context);
  if (config.out !== undefined) await writeFileAtomic(config.out, `${JSON.stringify(results)}\n`);
  if (config.examples !== undefined) await writeFileAtomic(config.examples, lines(results));
  for (const [task, scores] of Object.entries(results.results)) {
    ui.say(`${task}, ${formatCount(Number(scores.sample_len))} examples`);
    ui.say(table(rowsOf(scores)));
  }
  const { samples: _, ...summary } = results;
  ui.result(summary);
}

async function predictions({ data, metrics, limit }: EvalConfig): Promise<HarnessResults> {
  const path = required(data, "data");
  const rows = await readRows(path, path);
  const name = basename(path).replace(/\.\w+$/, "");
  return scorePredictions(
    name,
    limit === undefined ? rows : rows.slice(0, limit),
    required(metrics, "metrics"),
  );
}

async function withModel(config: EvalConfig, { ui, signal }: Context): Promise<HarnessResults> {
  const path = required(config.model, "model");
  // Tasks are read first: a mistake in one should not wait for the model.
  const tasks = config.tasks
    ? await Promise.all(config.tasks.map(loadTask))
    : [await dataTask(required(config.data, "data"), kindOf(config), optionsOf(config))];
  const model = await openAdapted({ ...config, model: path }, ui, signal);
  let bar: { total: number; shown: ReturnType<typeof ui.progress> } | undefined;
  try {
    return await runTasks(model, tasks, {
      batchSize: config.batchSize,
      session: sessionOf(config),
      signal,
      ...(config.limit === undefined ? {} : { limit: config.limit }),
      ...(config.numFewshot === undefined ? {} : { numFewshot: config.numFewshot }),
      onProgress(done, total) {
        if (bar?.total !== total) {
          bar?.shown.stop();
          bar = { total, shown: ui.progress("evaluating", total) };
        }
        bar.shown.update(done);
      },
    });
  } finally {
    bar?.shown.stop();
  }
}

function kindOf({ task }: EvalConfig): "generate" | "choices" | "classify" {
  if (task === "generate" || task === "choices" || task === "classify") return task;
  throw new TunesmithError("config-invalid", `--task ${task} runs no model`, { fix: "use another task" });
}

function optionsOf(config: EvalConfig): DataTaskOptions {
  const { metrics, promptField, targetField, labels, delimiter, maxTokens, stop } = config;
  const given = { metrics, promptField, targetField, labels, delimiter, maxTokens };
  const known = Object.entries(given).filter(([, value]) => value !== undefined);
  return { ...Object.fromEntries(known), ...(stop.length > 0 ? { stop } : {}) };
}

/** Scores with their standard errors. */
function rowsOf(scores: Readonly<Record<string, number | string>>): [string, string][] {
  const metrics = Object.keys(scores).filter((key) => key.includes(",") && !key.includes("_stderr,"));
  return metrics.map((key) => {
    const error = scores[key.replace(",", "_stderr,")];
    const shown = typeof error === "number" ? ` ± ${error.toFixed(4)}` : "";
    return [key.replace(/,none$/, ""), `${Number(scores[key]).toFixed(4)}${shown}`];
  });
}

const lines = ({ samples }: HarnessResults): string =>
  Object.entries(samples)
    .flatMap(([task, rows]) => rows.map((row) => `${JSON.stringify({ task, ...row })}\n`))
    .join("");
