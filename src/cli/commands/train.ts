import { joinPath, makeDir } from "#io";
import { resolveTemplate, writeTemplate } from "../../data/index.js";
import { methodNamed } from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import {
  createEvaluator,
  type Evaluation,
  type FitOptions,
  fit,
  listCheckpoints,
  type TrainResult,
} from "../../training/index.js";
import { recordTasks } from "../adapter-tasks.js";
import type { Context } from "../command.js";
import { type Following, followRun } from "../tracking/follow.js";
import { formatCount, formatDuration } from "../ui.js";
import { checkOut, sessionOf, throwIfAborted, tokenizerOf } from "../work.js";
import { gapsOf } from "./align-run.js";
import { dryRun } from "./dry-run.js";
import { findLr } from "./find-lr.js";
import { stepOptions } from "./fit-options.js";
import { fitRun } from "./memory.js";
import { type Prepared, prepareRun, type RunConfig } from "./prepare-run.js";
import { runIdentity } from "./run-identity.js";
import { saveResult } from "./save-result.js";
import { recordSearch } from "./search-run.js";
import { recordTask } from "./task-model.js";

export async function runTrain(given: RunConfig, context: Context): Promise<void> {
  const started = performance.now();
  const { config, prepared } = await fitRun(given, await prepareRun(given, context), context);
  if (config.dryRun) return dryRun(config, prepared, context.ui);
  if (config.findLr) return findLr(config, prepared, context);
  if (methodNamed(config.method).result === "model") await checkOut(prepared.base, config.out);
  await recordSearch(config, prepared.search, "run");
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
  if (before) ui.say(`before: ${shown(before)}`);
  const apart = await gapsOf(prepared.objective, config, ui, "before:");
  throwIfAborted(signal);
  const result = await trainWithBar(config, prepared, following, context);
  const { steps, restoredStep } = result;
  if (steps < prepared.steps) ui.say(`stopped after step ${steps} of ${prepared.steps} (--patience)`);
  if (restoredStep !== undefined) ui.say(`the weights are those of step ${restoredStep}, the best evaluated`);
  const after = result.evaluation ?? (await evaluation(prepared, config));
  if (after) ui.say(`after:  ${shown(after)}`);
  const closer = await gapsOf(prepared.objective, config, ui, "after: ");
  const { receipt, text, kind } = await saveResult(prepared.model, config.out, ui);
  if (prepared.data.layout === "chat") await recordTemplate(prepared.base, config);
  await recordTask(prepared.base, config);
  await recordTasks(prepared.tasks, config.out);
  await recordSearch(config, prepared.search, "result");
  await following.finished({ kind, before, after, data: prepared.data, receipt, receiptText: text });
  const seconds = (performance.now() - started) / 1000;
  ui.say(`wrote ${config.out} in ${formatDuration(seconds)}`);
  ui.result({
    method: config.method,
    objective: prepared.objective.name,
    out: config.out,
    steps: result.steps,
    finalLoss: Number.isFinite(result.finalLoss) ? result.finalLoss : null,
    lossBefore: before?.loss ?? null,
    lossAfter: after?.loss ?? null,
    perplexityBefore: before?.scores.perplexity ?? null,
    perplexityAfter: after?.scores.perplexity ?? null,
    scoresBefore: before?.scores ?? null,
    scoresAfter: after?.scores ?? null,
    tokensPerSecond: result.tokensPerSecond,
    restoredStep: result.restoredStep ?? null,
    seconds,
    receipt,
    ...(apart ? { alignment: { before: apart, after: closer } } : {}),
    ...(prepared.search ? { modules: prepared.search.table } : {}),
  });
}

/** What was learnt in one template is worth little in another: it goes with the result. */
async function recordTemplate(base: Model, { chatTemplate, out }: RunConfig): Promise<void> {
  const template = await resolveTemplate(tokenizerOf(base), chatTemplate);
  if (template) await writeTemplate(out, template);
}

/** Loss and scores in a line. */
const shown = ({ loss, scores }: Evaluation): string =>
  [
    `loss ${loss.toFixed(4)}`,
    ...Object.entries(scores).map(([name, value]) => `${name} ${figure(name, value)}`),
  ].join(", ");

const figure = (name: string, value: number): string => value.toFixed(/^perplexity\b/.test(name) ? 2 : 4);

async function evaluation({ objective }: Prepared, config: RunConfig): Promise<Evaluation | undefined> {
  if (!objective.validation) return undefined;
  const evaluator = createEvaluator(objective, { session: sessionOf(config) });
  try {
    return await evaluator.run(objective.validation());
  } finally {
    await evaluator.close();
  }
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
  const options: FitOptions = {
    ...stepOptions(config),
    steps: prepared.steps,
    optimizer: prepared.optimizer,
    runDir,
    resume: config.resume,
    config: runIdentity(config, prepared.steps),
    evalEvery: config.evalEvery,
    saveEvery: config.saveEvery,
    ...(config.patience === undefined ? {} : { patience: config.patience }),
    stopOn: { mode: config.stopMode, ...(config.stopOn === undefined ? {} : { metric: config.stopOn }) },
    signal,
    onEvent(event) {
      following.onEvent(event);
      if (event.type === "resumed") ui.note(`continuing after step ${event.step}`);
      else if (event.type === "evaluation")
        evaluated = Object.entries(event.scores)
          .slice(0, 1)
          .map(([name, value]) => `  ${name} ${figure(name, value)}`)
          .join("");
      else if (event.type === "step") {
        const speed = `${formatCount(Math.round(event.tokensPerSecond))} ${prepared.unit}/s`;
        bar.update(event.step, `loss ${event.loss.toFixed(4)}${evaluated}  ${speed}`);
      }
    },
  };
  try {
    return await fit(prepared.objective, options);
  } finally {
    bar.stop();
  }
}
