import type { Layout } from "../../data/index.js";
import { type Row, readSeries } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { applyMethod, methodNamed } from "../../methods/index.js";
import type { Model, TensorModel } from "../../models/index.js";
import { objectiveFor, type TaskOptions, textLength } from "../../training/index.js";
import type { Context } from "../command.js";
import { formatCount, type Ui } from "../ui.js";
import { aligned, balanceOf } from "./align-run.js";
import { joinedByTask, rowsByTask, withTasks } from "./by-task-run.js";
import {
  calibrationFor,
  type Found,
  finish,
  methodOptions,
  type OptionsFor,
  type Prepared,
  type RunConfig,
} from "./prepare-run.js";
import { dataName, oneFile, readRows } from "./read-rows.js";
import { searched } from "./search-run.js";
import {
  classesIn,
  classNames,
  freshModules,
  newLabels,
  openWithHead,
  processorOf,
  taskOfRun,
} from "./task-model.js";

/** A run of a model of any other task than causal language modelling. */
export async function prepareTask(
  opened: Model,
  config: RunConfig,
  context: Context,
  optionsFor: OptionsFor,
): Promise<Prepared> {
  const { ui } = context;
  if ((config.task ?? opened.task) === "forecasting") return prepareForecast(opened, config, ui, optionsFor);
  const { train, validation, source } = await readRows(config, ui);
  const all = [...train, ...validation];
  const base = await baseFor(opened, config, source.layout as Layout, all, context);
  const options = taskOptions(config, await processorOf(base as TensorModel));
  const calibration = await calibrationFor(config, async () =>
    objectiveFor(base as TensorModel, { train, validation }, options),
  );
  const tasks = rowsByTask(config, { train, validation });
  const method = withTasks(optionsOf(opened, base, config, ui, optionsFor), tasks);
  const search = await searched(
    base,
    { config, options: method, rows: train, context },
    async (own, part) => {
      const objective = objectiveFor(own as TensorModel, { train: part.train }, { ...options, ...part });
      return { objective, batchesPerEpoch: Math.ceil(Number(objective.identity.examples) / part.batchSize) };
    },
  );
  const how = { seed: config.seed, calibration };
  const adapted = search?.model ?? (await applyMethod(base, config.method, method, how));
  const model = aligned(adapted, config, train) as TensorModel;
  const parts = (tasks?.parts ?? [{ train, validation }]).map((rows) => objectiveFor(model, rows, options));
  const sizes = parts.map(({ identity }) => Number(identity.examples));
  const examples = sizes.reduce((a, b) => a + b, 0);
  const objective = joinedByTask(model, tasks, parts);
  return finish(config, ui, {
    ...{ base, model, objective, search: search?.report, tasks: tasks?.names },
    rowTokens: [],
    rows: examples,
    shape: { ...largestBatch(model, config), ...(tasks ? { task: 0 } : {}) },
    unit: "examples",
    batchesPerEpoch: sizes.reduce((sum, size) => sum + Math.ceil(size / config.batchSize), 0),
    described: `${formatCount(examples)} examples (${source.layout})`,
    heldOut: validation.length > 0 ? `${formatCount(validation.length)} rows` : "nothing",
    data: { ...source, source: dataName(config), tokens: 0, trainedTokens: 0, truncated: 0 },
  });
}

const taskOptions = (config: RunConfig, processor?: Record<string, unknown>): TaskOptions => ({
  ...config.taskOptions,
  batchSize: config.batchSize,
  length: config.length,
  seed: config.seed,
  balance: balanceOf(config),
  ...(processor ? { processor } : {}),
});

/** The model for the run's task, with a fresh head where the rows have other classes. */
async function baseFor(
  opened: Model,
  config: RunConfig,
  layout: Layout,
  rows: readonly Row[],
  { ui, signal }: Context,
): Promise<Model> {
  const task = taskOfRun(opened.task, layout, config.task);
  const { seed, quantize } = config;
  const first =
    task === opened.task ? opened : await openWithHead(config.model, { task, seed, quantize }, ui, signal);
  const multiLabel = config.taskOptions.multiLabel === true;
  const asked = config.head && classesIn(config.head, first, classNames(rows, multiLabel));
  const labels = asked ?? newLabels(first, rows, multiLabel);
  if (!labels) return first;
  ui.note(
    `a new head for ${labels.length} classes: ${labels.slice(0, 8).join(", ")}${labels.length > 8 ? ", ..." : ""}`,
  );
  return openWithHead(config.model, { task, labels, seed, quantize }, ui, signal);
}

/** The method's options; a head that the file does not have is trained whole. */
function optionsOf(
  opened: Model,
  base: Model,
  config: RunConfig,
  ui: Ui,
  optionsFor: OptionsFor,
): Record<string, unknown> {
  const options = optionsFor(base, methodOptions(config));
  const fresh = base === opened ? [] : freshModules(opened, base);
  if (fresh.length > 0 && options.modulesToSave === undefined) {
    if ("modulesToSave" in methodNamed(config.method).options.shape) options.modulesToSave = fresh;
    else if (config.method !== "full")
      ui.note(`the new head (${fresh.join(", ")}) is not trained by ${config.method}`);
  }
  return options;
}

async function prepareForecast(
  base: Model,
  config: RunConfig,
  ui: Ui,
  optionsFor: OptionsFor,
): Promise<Prepared> {
  const series = await readSeries(oneFile(config));
  if (methodNamed(config.method).search?.(methodOptions(config))) {
    throw new TunesmithError(
      "config-invalid",
      `${config.method} judges by rows of their own, and a series has none`,
      {
        fix: "name the modules: --selected, or choose another method",
      },
    );
  }
  const calibration = await calibrationFor(config, async () =>
    objectiveFor(base as TensorModel, { series }, taskOptions(config)),
  );
  const how = { seed: config.seed, calibration };
  const model = (await applyMethod(
    base,
    config.method,
    optionsFor(base, methodOptions(config)),
    how,
  )) as TensorModel;
  const objective = objectiveFor(model, { series }, taskOptions(config));
  const examples = Number(objective.identity.examples);
  const steps = series.values.shape[0] as number;
  const found: Found = {
    ...{ base, model, objective },
    rowTokens: [],
    rows: examples,
    shape: { ...largestBatch(model, config), channels: series.channels.length },
    unit: "examples",
    batchesPerEpoch: Math.ceil(examples / config.batchSize),
    described: `${formatCount(examples)} windows over ${formatCount(steps)} steps of ${series.channels.length} channels`,
    heldOut: "the series' validation part",
    data: {
      ...{ source: dataName(config), layout: "series", rows: steps, dropped: 0 },
      ...{ tokens: 0, trainedTokens: 0, truncated: 0 },
    },
  };
  return finish(config, ui, found);
}

const largestBatch = (model: TensorModel, { batchSize, length }: RunConfig) => ({
  batch: batchSize,
  length: textLength(model, length),
  decoder_length: textLength(model, length),
});
