import { joinPath, makeDir } from "#io";
import {
  type Pack,
  paddingId,
  planBatches,
  prepareRows,
  type Row,
  resolveTemplate,
  splitDataset,
  writeTemplate,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { applyMethod, methodNamed } from "../../methods/index.js";
import type { CausalLm } from "../../models/index.js";
import {
  createOptimizer,
  createSchedule,
  type Evaluation,
  evaluateOnce,
  listCheckpoints,
  type ModelCardDataset,
  type Optimizer,
  type PlainData,
  type ScheduleConfig,
  type TrainOptions,
  type TrainResult,
  train,
} from "../../training/index.js";
import type { Context } from "../command.js";
import { bytesIn } from "../config/flags.js";
import type { TrainConfig } from "../config/schema.js";
import { type Following, followRun } from "../tracking/follow.js";
import { formatCount, formatDuration, table, type Ui } from "../ui.js";
import {
  checkOut,
  openModel,
  packingFor,
  readData,
  rowLength,
  sessionOf,
  throwIfAborted,
  tokenizeOptions,
  tokenizerOf,
} from "../work.js";
import { dryRun } from "./dry-run.js";
import { saveResult } from "./save-result.js";

/** The run's configuration with its method's options beside it. */
export type RunConfig = TrainConfig & Readonly<Record<string, unknown>>;

/** Everything of a run that is decided before its first step. */
export interface Prepared {
  readonly base: CausalLm;
  readonly model: CausalLm;
  readonly train: readonly Pack[];
  readonly validation: readonly Pack[];
  readonly lengths: readonly number[];
  readonly validationLengths: readonly number[];
  readonly steps: number;
  readonly stepsPerEpoch: number;
  readonly padId: number;
  readonly optimizer: Optimizer;
  readonly data: ModelCardDataset;
}

export async function runTrain(config: RunConfig, context: Context): Promise<void> {
  const started = performance.now();
  const prepared = await prepare(config, context);
  if (config.dryRun) return dryRun(config, prepared, context.ui);
  if (methodNamed(config.method).result === "model") await checkOut(prepared.base, config.out);
  const following = await followRun(config, prepared.steps, context);
  try {
    await tune(config, prepared, following, context, started);
  } catch (error) {
    await following.ended(error);
    throw error;
  }
}

/** Evaluates, trains, evaluates, saves. */
async function tune(
  config: RunConfig,
  prepared: Prepared,
  following: Following,
  context: Context,
  started: number,
): Promise<void> {
  const { ui, signal } = context;
  const before = await evaluation(prepared, config);
  following.before(before);
  if (before) ui.say(`before: loss ${before.loss.toFixed(4)}, perplexity ${perplexityOf(before).toFixed(2)}`);
  throwIfAborted(signal);
  const result = await trainWithBar(config, prepared, following, context);
  const after = result.evaluation ?? (await evaluation(prepared, config));
  if (after) ui.say(`after:  loss ${after.loss.toFixed(4)}, perplexity ${perplexityOf(after).toFixed(2)}`);
  const { receipt, text, kind } = await saveResult(prepared.model, config.out, ui);
  if (prepared.data.layout === "chat") await recordTemplate(prepared.base, config);
  await following.finished({ kind, before, after, data: prepared.data, receipt, receiptText: text });
  const seconds = (performance.now() - started) / 1000;
  ui.say(`wrote ${config.out} in ${formatDuration(seconds)}`);
  ui.result({
    method: config.method,
    out: config.out,
    steps: result.steps,
    finalLoss: Number.isFinite(result.finalLoss) ? result.finalLoss : null,
    lossBefore: before?.loss ?? null,
    lossAfter: after?.loss ?? null,
    perplexityBefore: before ? perplexityOf(before) : null,
    perplexityAfter: after ? perplexityOf(after) : null,
    tokensPerSecond: result.tokensPerSecond,
    restoredStep: result.restoredStep ?? null,
    seconds,
    receipt,
  });
}

/** What was learnt in one template is worth little in another: it goes with the result. */
async function recordTemplate(base: CausalLm, { chatTemplate, out }: RunConfig): Promise<void> {
  const template = await resolveTemplate(tokenizerOf(base), chatTemplate);
  if (template) await writeTemplate(out, template);
}

/** Loads model and data, makes rows, applies the method. */
async function prepare(config: RunConfig, { ui, signal }: Context): Promise<Prepared> {
  checkEvaluations(config);
  const base = await openModel(config.model, ui, signal);
  const tokenizer = tokenizerOf(base);
  const length = rowLength(base, config.length);
  const { train: trainRows, validation: heldOut, source } = await readRows(config, ui);
  const rowsOf = (rows: readonly Row[], label: string) => {
    const bar = ui.progress(label, rows.length);
    try {
      const onProgress = (done: number) => bar.update(done);
      const options = {
        ...tokenizeOptions(config),
        length,
        packing: packingFor(base, config.packing),
        onProgress,
      };
      return prepareRows(rows, tokenizer, options);
    } finally {
      bar.stop();
    }
  };
  const trained = rowsOf(trainRows, "tokenizing");
  const validation = heldOut.length > 0 ? rowsOf(heldOut, "tokenizing validation data") : undefined;
  if (trained.report.truncated > 0)
    ui.note(`${trained.report.truncated} examples were cut at ${length} tokens (--length)`);
  if (trained.report.eosMissing)
    ui.note("the tokenizer has no end-of-sequence token: documents have no end mark");
  throwIfAborted(signal);
  const model = await applyMethod(base, config.method, methodOptions(config), { seed: config.seed });
  const { batchSize, accumulate } = config;
  const perEpoch = planBatches(trained.packs, { batchSize, lengths: trained.lengths }).length;
  const stepsPerEpoch = Math.max(1, Math.ceil(perEpoch / accumulate));
  const steps = config.steps ?? Math.max(1, Math.ceil(config.epochs * stepsPerEpoch));
  const prepared: Prepared = {
    base,
    model,
    train: trained.packs,
    validation: validation?.packs ?? [],
    lengths: trained.lengths,
    validationLengths: validation?.lengths ?? [],
    steps,
    stepsPerEpoch,
    padId: paddingId(tokenizer),
    optimizer: optimizerOf(config, steps, model),
    data: {
      ...source,
      source: config.data,
      tokens: trained.report.tokens,
      trainedTokens: trained.report.trainedTokens,
      truncated: trained.report.truncated,
      ...(validation ? { heldOutTokens: validation.report.tokens } : {}),
    },
  };
  const parameters = trainableCount(model);
  ui.say(
    table([
      ["model", `${config.model} (${base.architecture})`],
      ["method", `${config.method}, ${formatCount(parameters)} trainable parameters`],
      [
        "data",
        `${formatCount(trained.report.tokens)} tokens in ${trained.packs.length} rows of ${prepared.lengths}`,
      ],
      ["held out", validation ? `${formatCount(validation.report.tokens)} tokens` : "nothing"],
      ["steps", `${prepared.steps} of ${batchSize * accumulate} rows`],
    ]),
  );
  return prepared;
}

/** An option that would do nothing is a mistake. Throws `config-invalid`. */
function checkEvaluations({ patience, evalEvery, validation, validationShare }: RunConfig): void {
  const option = patience === undefined ? "--eval-every" : "--patience";
  const nothing = validation === undefined && validationShare === 0;
  if (nothing && (patience !== undefined || evalEvery > 0)) {
    throw new TunesmithError("config-invalid", `${option}: there is no validation data to evaluate on`, {
      fix: "give --validation, or a --validation-share above 0",
    });
  }
  if (patience === undefined || evalEvery > 0) return;
  throw new TunesmithError("config-invalid", "--patience counts evaluations, and there is only the last", {
    fix: "give --eval-every, the steps between evaluations",
  });
}

interface ReadRows {
  readonly train: readonly Row[];
  readonly validation: readonly Row[];
  readonly source: Pick<ModelCardDataset, "layout" | "rows" | "dropped">;
}

async function readRows(config: TrainConfig, ui: Ui): Promise<ReadRows> {
  const dataset = await readData(config.data, config);
  const { dropped, capped } = dataset.report;
  const { guess } = dataset;
  if (guess && guess.confidence < 1)
    ui.note(`read as ${guess.layout}: ${guess.reason} (--layout, --fields; tunesmith data check says more)`);
  if (dropped.length > 0)
    ui.note(
      `${dropped.length} rows or files were left out, such as ${dropped[0]?.row}: ${dropped[0]?.reason}`,
    );
  if (capped) ui.note("the folder holds more text than is read (--max-bytes)");
  const source = { layout: dataset.layout, rows: dataset.rows.length, dropped: dropped.length };
  if (config.validation !== undefined) {
    return { train: dataset.rows, validation: (await readData(config.validation, config)).rows, source };
  }
  if (config.validationShare === 0) return { train: dataset.rows, validation: [], source };
  return { ...splitDataset(dataset, { validation: config.validationShare, seed: config.seed }), source };
}

export const trainableCount = (model: CausalLm): number =>
  [...model.parameters.values()].reduce(
    (sum, { trainable, tensor }) => sum + (trainable ? tensor.data.length : 0),
    0,
  );

/** The options that belong to the method. */
function methodOptions(config: RunConfig): Record<string, unknown> {
  const own = Object.keys(methodNamed(config.method).options.shape);
  return Object.fromEntries(
    own.flatMap((key) => (config[key] === undefined ? [] : [[key, config[key]] as const])),
  );
}

function optimizerOf(config: TrainConfig, totalSteps: number, model: CausalLm): Optimizer {
  const { lr, weightDecay, maxGradNorm, warmup } = config;
  const rise = warmup >= 1 ? { warmupSteps: Math.round(warmup) } : warmup > 0 ? { warmupRatio: warmup } : {};
  const described = { ...rise, ...config.scheduleOptions, type: config.schedule, totalSteps };
  const names = [...model.parameters.values()].filter(({ trainable }) => trainable).map(({ name }) => name);
  const options = {
    maxGradNorm,
    ...(lr === undefined ? {} : { lr }),
    ...(weightDecay === undefined ? {} : { weightDecay }),
    ...config.optimizerOptions,
  };
  const schedule = createSchedule(described as ScheduleConfig);
  return createOptimizer(config.optimizer, options, { schedule, totalSteps, names });
}

const perplexityOf = ({ loss }: Evaluation): number => Math.exp(loss);

async function evaluation(prepared: Prepared, config: RunConfig): Promise<Evaluation | undefined> {
  const { padId, model, validation, validationLengths: lengths } = prepared;
  if (validation.length === 0) return undefined;
  return evaluateOnce(model, validation, {
    batchSize: config.batchSize,
    lengths,
    padId,
    session: sessionOf(config),
  });
}

async function trainWithBar(
  config: RunConfig,
  prepared: Prepared,
  following: Following,
  { ui, signal }: Context,
): Promise<TrainResult> {
  const runDir = config.runDir ?? joinPath(config.out, ".run");
  await makeDir(runDir);
  if (config.resume && (await listCheckpoints(runDir)).length === 0)
    ui.note(`there is no checkpoint in ${runDir} to continue from: starting at the beginning`);
  const bar = ui.progress("training", prepared.steps);
  let evaluated = "";
  const options: TrainOptions = {
    train: prepared.train,
    validation: prepared.validation,
    batchSize: config.batchSize,
    // Both sets share one list; a row takes the first length it fits.
    lengths: [...new Set([...prepared.lengths, ...prepared.validationLengths])].sort((a, b) => a - b),
    accumulate: config.accumulate,
    steps: prepared.steps,
    optimizer: prepared.optimizer,
    seed: config.seed,
    padId: prepared.padId,
    runDir,
    resume: config.resume,
    config: identity(config, prepared),
    evalEvery: config.evalEvery,
    saveEvery: config.saveEvery,
    ...(config.patience === undefined ? {} : { patience: config.patience }),
    session: sessionOf(config),
    recompute: config.recompute,
    prefixCacheBytes: bytesIn(config.prefixCache),
    signal,
    onEvent(event) {
      following.onEvent(event);
      if (event.type === "resumed") ui.note(`continuing after step ${event.step}`);
      else if (event.type === "evaluation")
        evaluated = `  perplexity ${Number(event.scores.perplexity).toFixed(2)}`;
      else if (event.type === "step") {
        const speed = `${formatCount(Math.round(event.tokensPerSecond))} tokens/s`;
        bar.update(event.step, `loss ${event.loss.toFixed(4)}${evaluated}  ${speed}`);
      }
    },
  };
  try {
    return await train(prepared.model, options);
  } finally {
    bar.stop();
  }
}

/** What decides a run's numbers; a resumed run must have the same. */
function identity(config: RunConfig, { steps }: Prepared): Record<string, PlainData> {
  const free = new Set([
    ...[
      "out",
      "runDir",
      "resume",
      "dryRun",
      "threads",
      "evalEvery",
      "saveEvery",
      "patience",
      "prefixCache",
      "recompute",
    ],
    ...["epochs", "model", "data", "validation"],
    ...["track", "runName", "tensorboard", "card", "license"],
  ]);
  const kept = Object.entries(config).filter(([key, value]) => !free.has(key) && value !== undefined);
  return { ...(Object.fromEntries(kept) as Record<string, PlainData>), steps };
}
