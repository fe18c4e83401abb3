import { type Layout, paddingId } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import {
  applyMethod,
  type Calibration,
  calibrate,
  fingerprint,
  fingerprintHash,
  isAdapted,
  isMpoModel,
  isUnfrozen,
  methodNamed,
  setActive,
  trainableCount,
} from "../../methods/index.js";
import type { CausalLm, Model } from "../../models/index.js";
import {
  createOptimizer,
  createSchedule,
  type ModelCardDataset,
  type Objective,
  type Optimizer,
  objectiveForLayout,
  objectiveNamed,
  prepareObjective,
  type Schedule,
  type ScheduleConfig,
  type StepShape,
  teacherLogitsOf,
} from "../../training/index.js";
import type { Context } from "../command.js";
import type { TrainConfig } from "../config/schema.js";
import { formatCount, table, type Ui } from "../ui.js";
import {
  noteQuantization,
  openModel,
  packingFor,
  rowLength,
  sessionOf,
  tokenizeOptions,
  tokenizerOf,
} from "../work.js";
import { aligned, balanceOf } from "./align-run.js";
import { preparedByTask, rowsByTask, withTasks } from "./by-task-run.js";
import { defaultRate } from "./default-rate.js";
import { dataName, readRows } from "./read-rows.js";
import { type SearchReport, searched } from "./search-run.js";

/** The run's configuration with its method's options beside it. */
export type RunConfig = TrainConfig & Readonly<Record<string, unknown>>;

/** Everything of a run that is decided before its first step. */
export interface Prepared {
  readonly base: Model;
  readonly model: Model;
  readonly objective: Objective;
  /** Tokens of each training row; empty where rows have none. */
  readonly rowTokens: readonly number[];
  /** Examples, or packed rows, of an epoch. */
  readonly rows: number;
  /** The largest batch. */
  readonly shape: StepShape;
  readonly steps: number;
  readonly stepsPerEpoch: number;
  readonly optimizer: Optimizer;
  readonly unit: "tokens" | "examples";
  readonly data: ModelCardDataset;
  /** What the method decided before the run, where it decides anything. */
  readonly search?: SearchReport | undefined;
  /** Names of the tasks that the method learns apart, by number. */
  readonly tasks?: readonly string[] | undefined;
}

/** Rows of an objective, and how many of them are a batch. */
type Part = Pick<Parameters<typeof prepareObjective>[1], "train" | "validation" | "batchSize">;

/** A method's options on the model it goes on; default: those of the configuration. */
export type OptionsFor = (base: Model, options: Record<string, unknown>) => Record<string, unknown>;

/** Loads model and data, makes rows, applies the method. */
export async function prepareRun(
  config: RunConfig,
  context: Context,
  optionsFor: OptionsFor = (_, options) => options,
): Promise<Prepared> {
  const { ui, signal } = context;
  checkEvaluations(config);
  const { task } = config;
  const opened = await openModel(config.model, ui, signal, task === "causal-lm" ? task : "auto", {
    quantize: config.quantize,
  });
  if (opened.task === "causal-lm" && (task ?? "causal-lm") === "causal-lm") {
    if (config.head !== undefined) {
      throw new TunesmithError("config-invalid", "--head is of classifiers", {
        fix: "add --task sequence-classification, or leave it out",
      });
    }
    if (Object.keys(config.taskOptions).length > 0) {
      throw new TunesmithError("config-invalid", "--task-options do nothing for a causal language model", {
        fix: "give --objective-options, or the --task they are of",
      });
    }
    return prepareLanguage(opened, config, context, optionsFor);
  }
  const { objective, teacher, teacherLogits, referenceScores } = config;
  if ((objective ?? teacher ?? teacherLogits ?? referenceScores) !== undefined) {
    const given = "--objective, --teacher, --teacher-logits and --reference-scores";
    throw new TunesmithError("config-invalid", `${given} are of language models`, {
      fix: `leave them out: ${task ?? opened.task} has its own objective (--task-options)`,
    });
  }
  return (await import("./prepare-task.js")).prepareTask(opened, config, context, optionsFor);
}

/** A run of a causal language model. */
async function prepareLanguage(
  base: CausalLm,
  config: RunConfig,
  context: Context,
  optionsFor: OptionsFor,
): Promise<Prepared> {
  const { ui, signal } = context;
  const tokenizer = tokenizerOf(base);
  const length = rowLength(base, config.length);
  const { train, validation, source } = await readRows(config, ui);
  const name = config.objective ?? objectiveForLayout(source.layout as Layout);
  const entry = objectiveNamed(name);
  checkTeacher(config, name, entry.needsTeacher === true);
  checkRows(config, source.layout, name);
  const teacher = config.teacher === undefined ? undefined : await openModel(config.teacher, ui, signal);
  const bar = ui.progress("tokenizing", train.length);
  const onProgress = (done: number) => bar.update(Math.min(done, train.length));
  const { batchSize } = config;
  const referenceScores = await scoresOf(base, name, config);
  const teacherLogits = await logitsOf(config, {
    ...{ tokenizer, train, validation, batchSize, length, teacher },
    ...{ padId: paddingId(tokenizer), tokens: tokenizeOptions(config) },
  });
  const prepare = (
    model: CausalLm,
    reference: CausalLm | undefined,
    part: Part = { train, validation, batchSize },
  ) =>
    prepareObjective(
      name,
      {
        ...{ model, tokenizer, length, referenceScores, teacher, teacherLogits, ...part },
        balance: balanceOf(config),
        padId: paddingId(tokenizer),
        tokens: { ...tokenizeOptions(config), onProgress },
        packing: packingFor(base, config.packing ?? (config.alignment ? "none" : undefined)),
        reference: entry.needsReference ? reference : undefined,
      },
      config.objectiveOptions,
    ).finally(bar.stop);
  const calibration = await calibrationFor(config, async () => (await prepare(base, base)).objective);
  const how = { seed: config.seed, calibration };
  const tasks = rowsByTask(config, { train, validation });
  const options = withTasks(optionsFor(base, methodOptions(config)), tasks);
  const search = await searched(base, { config, options, rows: train, context }, (model, part) =>
    prepare(model, referenceOf(model), { ...part, validation: [] }),
  );
  const adapted = search?.model ?? (await applyMethod(base, config.method, options, how));
  const model = aligned(adapted, config, train);
  const prepared = await preparedByTask(model, tasks, (part) =>
    prepare(model, referenceOf(model), part && { ...part, batchSize }),
  );
  if (prepared.truncated > 0)
    ui.note(`${prepared.truncated} examples were cut or left out at ${length} tokens (--length)`);
  if (prepared.eosMissing) ui.note("the tokenizer has no end-of-sequence token: documents have no end mark");
  const tokens = prepared.rowTokens.reduce((a, b) => a + b, 0);
  const { heldOutTokens, trainedTokens, truncated, lengths, examples } = prepared;
  const data = {
    ...{ ...source, source: dataName(config), tokens, trainedTokens, truncated },
    ...(heldOutTokens > 0 ? { heldOutTokens } : {}),
  };
  return finish(config, ui, {
    ...{ base, model, data, search: search?.report, tasks: tasks?.names },
    objective: prepared.objective,
    rowTokens: prepared.rowTokens,
    rows: examples,
    shape: prepared.shape,
    unit: "tokens",
    batchesPerEpoch: prepared.batchesPerEpoch,
    described: `${formatCount(tokens)} tokens in ${prepared.rowTokens.length} rows of ${lengths}`,
    heldOut: heldOutTokens > 0 ? `${formatCount(heldOutTokens)} tokens` : "nothing",
  });
}

/** What a method that starts from data is given: statistics of the base over the training data. */
export async function calibrationFor(
  config: RunConfig,
  objective: () => Promise<Objective>,
): Promise<Calibration | undefined> {
  const statistics = methodNamed(config.method).needs(methodOptions(config));
  if (statistics.length > 0) {
    const { seed, calibrate: batches = 16 } = config;
    return calibrate(await objective(), { statistics, batches, seed, session: sessionOf(config) });
  }
  if (config.calibrate === undefined) return undefined;
  throw new TunesmithError(
    "config-invalid",
    `--calibrate does nothing: ${config.method} does not start from data`,
    {
      fix: "leave it out, or choose a start that does, such as --init corda",
    },
  );
}

/** Options about rows of another kind would do nothing. Throws `config-invalid`. */
function checkRows({ chatTemplate, trainOn, packing }: RunConfig, layout: string, objective: string): void {
  const turns = layout === "chat" || layout === "preference" || layout === "feedback";
  const idle = [
    ...(chatTemplate !== undefined && !turns ? ["--chat-template"] : []),
    ...(trainOn === "last" && layout !== "chat" ? ["--train-on last"] : []),
  ];
  if (idle.length > 0) {
    throw new TunesmithError(
      "config-invalid",
      `${idle[0]} does nothing: the rows are ${layout}, no conversations`,
      {
        fix: "leave it out, or name the --layout if the rows are read wrongly",
      },
    );
  }
  if (packing === undefined || packing === "none" || layout === "chat" || !turns) return;
  throw new TunesmithError(
    "config-invalid",
    `--packing ${packing} does nothing with --objective ${objective}`,
    {
      fix: "leave it out: answers that are judged have a row each",
    },
  );
}

/** Throws `config-invalid` for options of a teacher that lack something, or would do nothing. */
function checkTeacher(
  { teacher, teacherLogits, teacherTop }: RunConfig,
  objective: string,
  needed: boolean,
): void {
  if (needed && teacher === undefined && teacherLogits === undefined) {
    throw new TunesmithError("config-invalid", `--objective ${objective} needs --teacher`, {
      fix: "name the model to learn from, or with --teacher-logits a file of its logits",
    });
  }
  const given = [
    ...(teacher === undefined ? [] : ["--teacher"]),
    ...(teacherLogits === undefined ? [] : ["--teacher-logits"]),
    ...(teacherTop === undefined ? [] : ["--teacher-top"]),
  ];
  if (!needed && given.length > 0) {
    throw new TunesmithError("config-invalid", `${given[0]} does nothing with --objective ${objective}`, {
      fix: "add --objective distillation, or leave it out",
    });
  }
  if (teacherTop !== undefined && teacherLogits === undefined) {
    throw new TunesmithError("config-invalid", "--teacher-top does nothing without --teacher-logits", {
      fix: "name the file, or leave it out: a teacher in memory gives all its logits",
    });
  }
}

/** The teacher's logits of a file, which is written first where it is not there. */
async function logitsOf(config: RunConfig, context: Parameters<typeof teacherLogitsOf>[0]) {
  const { teacherLogits: file, teacherTop: top } = config;
  if (file === undefined) return undefined;
  const { teacher } = context;
  const prints = teacher && (await fingerprint(teacher, teacher.weights.keys()));
  return teacherLogitsOf(context, file, {
    session: sessionOf(config),
    ...(top === undefined ? {} : { top }),
    ...(prints ? { fingerprint: await fingerprintHash(prints) } : {}),
  });
}

/** Where the reference's scores are kept, when that is asked for. */
async function scoresOf(base: CausalLm, name: string, config: RunConfig) {
  const { referenceScores: file } = config;
  if (file === undefined) return undefined;
  if (name !== "dpo") {
    throw new TunesmithError("config-invalid", `--reference-scores does nothing with ${name}`, {
      fix: "leave it out: dpo compares pairs with a reference",
    });
  }
  const prints = await fingerprint(base, base.weights.keys());
  return { file, fingerprint: await fingerprintHash(prints), session: sessionOf(config) };
}

/** The model as it was before: without its adapters, or with the weights it started from. */
function referenceOf(model: CausalLm): CausalLm | undefined {
  if (isAdapted(model)) {
    // LQ-LoRA's base is half of the model it starts as.
    const { quantization } = model.base;
    return quantization?.own ? (quantization.base as CausalLm) : setActive(model, []);
  }
  return isUnfrozen(model) || isMpoModel(model) ? (model.base as CausalLm) : undefined;
}

/** What the two kinds of runs have found out. */
export interface Found extends Omit<Prepared, "steps" | "stepsPerEpoch" | "optimizer"> {
  readonly batchesPerEpoch: number;
  /** The data and what is held out, for people. */
  readonly described: string;
  readonly heldOut: string;
}

/** Steps and optimiser; says what the run is. */
export function finish(config: RunConfig, ui: Ui, found: Found): Prepared {
  const { batchesPerEpoch, described, heldOut, ...rest } = found;
  const { batchSize, accumulate } = config;
  const stepsPerEpoch = Math.max(1, Math.ceil(batchesPerEpoch / accumulate));
  const steps = config.steps ?? Math.max(1, Math.ceil(config.epochs * stepsPerEpoch));
  const rate = defaultRate(config);
  // What the method itself quantised.
  if (!rest.base.quantization) noteQuantization(rest.model, ui);
  ui.say(
    table([
      ["model", `${config.model} (${rest.base.architecture}, ${rest.base.task})`],
      ["method", `${config.method}, ${formatCount(trainableCount(rest.model))} trainable parameters`],
      ["objective", rest.objective.name],
      ["data", described],
      ["held out", heldOut],
      ...(rest.tasks ? [["tasks", rest.tasks.join(", ")] as [string, string]] : []),
      ["steps", `${steps} of ${batchSize * accumulate} rows`],
      ...(rate ? [["learning rate", `${rate.lr}: ${rate.why}`] as [string, string]] : []),
    ]),
  );
  const { model } = rest;
  if (isMpoModel(model) && model.chains.startError > 1e-4) {
    const missing = (100 * model.chains.startError).toFixed(1);
    ui.note(
      `the shared chains miss ${missing} % of the weights: training does not start at the base (--groups)`,
    );
  }
  return { ...rest, steps, stepsPerEpoch, optimizer: optimizerOf(config, steps, model) };
}

/** An option that would do nothing is a mistake. Throws `config-invalid`. */
function checkEvaluations({ patience, evalEvery, stopOn, validation, validationShare }: RunConfig): void {
  const option = patience === undefined ? "--eval-every" : "--patience";
  const nothing = validation === undefined && validationShare === 0;
  if (nothing && (patience !== undefined || evalEvery > 0)) {
    throw new TunesmithError("config-invalid", `${option}: there is no validation data to evaluate on`, {
      fix: "give --validation, or a --validation-share above 0",
    });
  }
  if (patience === undefined && evalEvery === 0 && stopOn !== undefined) {
    throw new TunesmithError("config-invalid", "--stop-on does nothing: there is only the last evaluation", {
      fix: "give --eval-every, the steps between evaluations",
    });
  }
  if (patience === undefined || evalEvery > 0) return;
  throw new TunesmithError("config-invalid", "--patience counts evaluations, and there is only the last", {
    fix: "give --eval-every, the steps between evaluations",
  });
}

/** The options that belong to the method. */
export function methodOptions(config: RunConfig): Record<string, unknown> {
  const own = Object.keys(methodNamed(config.method).options.shape);
  return Object.fromEntries(
    own.flatMap((key) => (config[key] === undefined ? [] : [[key, config[key]] as const])),
  );
}

/** The run's optimiser; `schedule` instead of the configured one. */
export function optimizerOf(
  config: TrainConfig,
  totalSteps: number,
  model: Model,
  given?: Schedule,
): Optimizer {
  const { weightDecay, maxGradNorm, warmup } = config;
  const lr = config.lr ?? defaultRate(config)?.lr;
  const rise = warmup >= 1 ? { warmupSteps: Math.round(warmup) } : warmup > 0 ? { warmupRatio: warmup } : {};
  const described = { ...rise, ...config.scheduleOptions, type: config.schedule, totalSteps };
  const names = [...model.parameters.values()].filter(({ trainable }) => trainable).map(({ name }) => name);
  const options = {
    maxGradNorm,
    ...(lr === undefined ? {} : { lr }),
    ...(weightDecay === undefined ? {} : { weightDecay }),
    ...config.optimizerOptions,
  };
  const schedule = given ?? createSchedule(described as ScheduleConfig);
  return createOptimizer(config.optimizer, options, { schedule, totalSteps, names });
}
