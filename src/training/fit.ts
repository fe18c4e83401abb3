import { holdLock, joinPath, makeDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import { longRunning } from "../runtime/index.js";
import { cadence } from "./cadence.js";
import { createEvaluator, type Evaluation } from "./evaluate.js";
import type { FastForward } from "./fast-forward.js";
import { resumeRun, saveRun } from "./fit-checkpoint.js";
import type { FitOptions, TrainResult } from "./fit-types.js";
import { type FitSettings, withinMemory } from "./memory-budget.js";
import { memoryError } from "./memory-error.js";
import { progressMeter } from "./meters.js";
import { type MetricsWriter, openMetrics } from "./metrics.js";
import type { Objective, StepBatch } from "./objective.js";
import { onEvaluationWeights } from "./optim/index.js";
import { type Run, startRun } from "./run.js";
import { closeAll, createStepper, type Stepper } from "./stepper.js";
import { update } from "./update.js";

/**
 * Minimises an objective over its model's trainable parameters, in place. Deterministic by seed; a run that was killed
 * continues from its last checkpoint with the same numbers, bit for bit.
 *
 * Throws `zero-update` (nothing to train, or nothing changes), `loss-not-finite`, `loss-spike`, `out-of-memory` with the plan, `checkpoint-mismatch`, `data-empty`,
 * `in-use` when another process or tab works in `runDir`, `storage-full`, `cancelled`.
 *
 * @example
 * ```ts
 * import { adamw, fit, type Objective } from "tunesmith/training";
 * export const run = (objective: Objective) => fit(objective, { steps: 100, optimizer: adamw({ lr: 1e-3 }) });
 * ```
 */
export async function fit(objective: Objective, given: FitOptions): Promise<TrainResult> {
  const options = withinMemory(objective, { ...given, session: longRunning(given.session) });
  if (!options.runDir) return runFit(objective, options);
  await makeDir(options.runDir);
  const release = await holdLock(options.runDir);
  try {
    return await runFit(objective, options);
  } finally {
    await release();
  }
}

async function runFit(objective: Objective, options: FitSettings): Promise<TrainResult> {
  const run = startRun(objective, options);
  const resumed = options.runDir && options.resume ? await resumeRun(run, options) : undefined;
  const metrics = options.runDir
    ? await openMetrics(joinPath(options.runDir, "metrics.jsonl"), resumed ? { resumeAt: run.step } : {})
    : undefined;
  const stepper = createStepper(objective, options);
  const evaluator = objective.validation && createEvaluator(objective, options);
  const evaluate =
    evaluator && ((most?: number) => evaluator.run(first(objective.validation?.() ?? [], most)));
  const groups = stepGroups(run, options);
  try {
    return await loop(run, options, { stepper, evaluate: scored(run, options, evaluate), metrics, groups });
  } catch (error) {
    throw memoryError(error, objective, run.shape, { ...options, keepsBest: options.patience !== undefined });
  } finally {
    const stop = async () => void (await groups.return(undefined));
    await closeAll([stop, stepper.close, evaluator?.close, run.updater.close]);
  }
}

/** The first so many batches; all without a number. */
async function* first<T>(items: Iterable<T> | AsyncIterable<T>, most = Number.POSITIVE_INFINITY) {
  let count = 0;
  for await (const item of items) {
    yield item;
    if (++count >= most) return;
  }
}

/** The evaluation with the scores of the run's evaluators, which also stand alone. */
function scored(
  run: Run,
  { evaluators = [] }: FitOptions,
  evaluate: Evaluate | undefined,
): Evaluate | undefined {
  if (evaluators.length === 0) return evaluate;
  return async (most) => {
    const found = (await evaluate?.(most)) ?? { loss: Number.NaN, count: 0, scores: {} };
    if (most !== undefined) return found;
    const scores = { ...found.scores };
    for (const evaluator of evaluators) Object.assign(scores, await evaluator({ step: run.step }));
    return { ...found, scores };
  };
}

/** What an evaluation is judged by. Throws `config-invalid` for a score it does not have. */
function judged({ loss, scores }: Evaluation, { stopOn = {} }: FitSettings): number {
  const { metric = "loss" } = stopOn;
  const value = metric === "loss" ? loss : scores[metric];
  if (value !== undefined) return value;
  throw new TunesmithError("config-invalid", `stopOn: an evaluation has no '${metric}'`, {
    fix: `it has: ${["loss", ...Object.keys(scores)].join(", ")}`,
  });
}

/** Evaluates the weights as they are, on all held-out batches or the first few. */
type Evaluate = (batches?: number) => Promise<Evaluation>;

interface Parts {
  readonly stepper: Stepper;
  readonly evaluate: Evaluate | undefined;
  readonly metrics: MetricsWriter | undefined;
  readonly groups: AsyncGenerator<readonly StepBatch[]>;
}

async function loop(run: Run, options: FitSettings, parts: Parts): Promise<TrainResult> {
  const { stepper, evaluate, metrics, groups } = parts;
  const { steps, onEvent, evalEvery = 0, saveEvery = 0, optimizer } = options;
  const saving = cadence(saveEvery);
  const meter = progressMeter({ totalSteps: steps, firstStep: run.step });
  let [finalLoss, evaluation, restoredStep]: [number, Evaluation | undefined, number | undefined] = [
    Number.NaN,
    undefined,
    undefined,
  ];
  while (run.step < steps) {
    if (options.signal?.aborted) throw await cancelled(run, options);
    const group = (await groups.next()).value as readonly StepBatch[];
    run.forward?.beforeUpdate(run.step + 1, run.params);
    run.shape = group[0]?.shape;
    const { loss, gradNorm, skipped } = await update(run, group, options, stepper);
    if (!skipped) finalLoss = loss;
    meter.step(group.reduce((sum, batch) => sum + batch.size, 0));
    const learningRate = optimizer.learningRate(run.step);
    const { step } = run;
    const tokensPerSecond = meter.tokensPerSecond();
    const scale = run.noise?.value();
    const event = {
      ...{ step, loss, learningRate, gradNorm, tokensPerSecond },
      ...(skipped ? { skipped } : {}),
      ...(scale === undefined ? {} : { noiseScale: scale }),
    };
    onEvent?.({ type: "step", steps, ...event, remainingSeconds: meter.remainingSeconds() });
    await metrics?.write({ ...event, ...optimizer.report?.(run.state, step) });
    if (run.forward && evaluate) await forwardStage(run, run.forward, options, evaluate);
    const isLast = step === steps;
    if (evaluate && (isLast || (evalEvery > 0 && step % evalEvery === 0))) {
      const observed = await onEvaluationWeights(optimizer, run.params, run.state, async () => {
        const found = await evaluate();
        const value = judged(found, options);
        const { improved = false, stop = false } = run.stopping?.observe(step, value) ?? {};
        if (improved) run.bestMethod = run.method.capture();
        return { found, stop, value };
      });
      evaluation = observed.found;
      run.metric = { step, value: observed.value };
      onEvent?.({ type: "evaluation", step, ...evaluation });
      await metrics?.write({ step, evalLoss: evaluation.loss, ...prefixed(evaluation.scores) });
      if (observed.stop) break;
    }
    if (saveEvery !== 0 && options.runDir && (isLast || saving.isDue(step))) {
      const start = performance.now();
      const folder = await saveRun(run, options);
      saving.saved(performance.now() - start);
      onEvent?.({ type: "checkpoint", step, folder });
    }
  }
  // The weights the optimiser means to give: averages, schedule-free ones. What early stopping kept are such already.
  optimizer.enterEvaluation?.(run.params, run.state);
  if (run.stopping) {
    restoredStep = run.stopping.restoreBest();
    if (run.bestMethod) run.method.restore(run.bestMethod);
    if (evaluate && restoredStep !== undefined && restoredStep !== run.step) evaluation = await evaluate();
  }
  return { steps: run.step, finalLoss, evaluation, tokensPerSecond: meter.tokensPerSecond(), restoredStep };
}

/** A stage of Fast Forward when one is due. */
async function forwardStage(run: Run, forward: FastForward, options: FitSettings, evaluate: Evaluate) {
  const batches = options.fastForward?.validationBatches;
  const validate = async () => (await evaluate(batches)).loss;
  const stage = await forward.afterUpdate(run.step, run.params, validate);
  if (stage) options.onEvent?.({ type: "fastForward", ...stage });
}

/** A cancelled run leaves a checkpoint where it keeps any, so that it can be continued. */
async function cancelled(run: Run, options: FitSettings) {
  const saves = options.runDir !== undefined && (options.saveEvery ?? 0) !== 0 && run.step > 0;
  if (saves) {
    const folder = await saveRun(run, options);
    options.onEvent?.({ type: "checkpoint", step: run.step, folder });
  }
  return new TunesmithError("cancelled", `training was cancelled after step ${run.step}`, {
    fix: saves ? "continue with resume" : "set saveEvery to be able to continue",
    details: { step: run.step },
  });
}

/** Scores under the names metrics have: `evalPerplexity`. */
const prefixed = (scores: Readonly<Record<string, number>>) =>
  Object.fromEntries(
    Object.entries(scores).map(([name, value]) => [
      `eval${name.slice(0, 1).toUpperCase()}${name.slice(1)}`,
      value,
    ]),
  );

/** Micro-batches of each update, epoch after epoch, from where the run stands. */
async function* stepGroups(run: Run, options: FitSettings): AsyncGenerator<readonly StepBatch[]> {
  const { accumulate = 1, seed = 0 } = options;
  const source = run.objective.batches(run.position, seed);
  try {
    for (let group: StepBatch[] = []; ; group = []) {
      while (group.length < accumulate) group.push((await source.next()).value as StepBatch);
      yield group;
    }
  } finally {
    await source.return?.();
  }
}
