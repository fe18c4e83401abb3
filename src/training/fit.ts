import { holdLock, joinPath, makeDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import type { TrainingHooks } from "../models/index.js";
import { longRunning, type SessionOptions } from "../runtime/index.js";
import { type Checkpoint, loadLatest, saveCheckpoint } from "./checkpoint.js";
import { earlyStopping } from "./early-stopping.js";
import { createEvaluator, type Evaluation } from "./evaluate.js";
import type { PlainData } from "./exact-json.js";
import {
  type FastForward,
  type FastForwardOptions,
  type FastForwardStage,
  fastForward,
} from "./fast-forward.js";
import { zeroUpdateGuard } from "./guards.js";
import { progressMeter } from "./meters.js";
import { type MetricsWriter, openMetrics } from "./metrics.js";
import type { Objective, StepBatch } from "./objective.js";
import {
  type Optimizer,
  type OptimizerState,
  onEvaluationWeights,
  type Params,
  restoreOptimizerState,
  restoreParams,
} from "./optim/index.js";
import { closeAll, createStepper, type Stepper, type StepperOptions } from "./stepper.js";
import { update } from "./update.js";

export interface FitOptions extends Omit<StepperOptions, "session"> {
  /** Micro-batches per update; the loss is the mean over all their items. Default 1. */
  readonly accumulate?: number;
  readonly steps: number;
  readonly optimizer: Optimizer;
  /** Seed of data order and dropout. Default 0. */
  readonly seed?: number;
  /** Folder for checkpoints and metrics.jsonl, made if need be; nothing is written without one. */
  readonly runDir?: string;
  /** Continue from the newest checkpoint in `runDir` when there is one. Default false. */
  readonly resume?: boolean;
  /** Whatever else identifies the run; a resumed run must have the same. */
  readonly config?: Readonly<Record<string, PlainData>>;
  /** Updates between evaluations (and at the end); 0: only at the end. Default 0. */
  readonly evalEvery?: number;
  /** Updates between checkpoints; 0: none. Default 0. */
  readonly saveEvery?: number;
  /** Stop after so many evaluations without improvement, and restore the best. Default: never. */
  readonly patience?: number;
  /**
   * Fast Forward between updates (see `fastForward`); it looks at the first batches of the validation data. Default: none.
   */
  readonly fastForward?: (FastForwardOptions & { readonly validationBatches?: number }) | undefined;
  /** Default in Node: sessions in a worker, so that the event loop stays free. */
  readonly session?: SessionOptions;
  /** Called after every update and evaluation. */
  readonly onEvent?: (event: TrainEvent) => void;
  readonly signal?: AbortSignal;
}

export type TrainEvent =
  | {
      readonly type: "step";
      readonly step: number;
      readonly steps: number;
      /** Mean loss per item of this update's batch: cross-entropy per trained token of a language model. */
      readonly loss: number;
      readonly learningRate: number;
      readonly gradNorm: number;
      /** Tokens, or examples, per second. */
      readonly tokensPerSecond: number;
      readonly remainingSeconds: number | undefined;
    }
  | ({ readonly type: "evaluation"; readonly step: number } & Evaluation)
  | ({ readonly type: "fastForward" } & FastForwardStage)
  | { readonly type: "resumed"; readonly step: number }
  | { readonly type: "checkpoint"; readonly step: number; readonly folder: string };

export interface TrainResult {
  readonly steps: number;
  readonly finalLoss: number;
  /** Last evaluation, of the weights as they are now. */
  readonly evaluation: Evaluation | undefined;
  readonly tokensPerSecond: number;
  /** Set when early stopping ended the run: the step whose weights were restored. */
  readonly restoredStep: number | undefined;
}

/** A run and what it has done so far. */
export interface Run {
  readonly objective: Objective;
  readonly hooks: TrainingHooks;
  readonly params: Params;
  readonly state: OptimizerState;
  readonly guard: ReturnType<typeof zeroUpdateGuard>;
  readonly stopping: ReturnType<typeof earlyStopping> | undefined;
  readonly forward: FastForward | undefined;
  /** Updates done. */
  step: number;
  /** Loss of the latest evaluation, and the step whose weights it measured. */
  metric: { readonly step: number; readonly loss: number } | undefined;
  /** Position of the data iterator after the last update. */
  position: { epoch: number; step: number };
}

/**
 * Minimises an objective over its model's trainable parameters, in place. Deterministic by seed; a run that was killed
 * continues from its last checkpoint with the same numbers, bit for bit.
 *
 * Throws `zero-update` (nothing to train, or nothing changes), `loss-not-finite`, `checkpoint-mismatch`, `data-empty`,
 * `in-use` when another process or tab works in `runDir`, `storage-full`, `cancelled`.
 *
 * @example
 * ```ts
 * import { adamw, fit, type Objective } from "tunesmith/training";
 * export const run = (objective: Objective) => fit(objective, { steps: 100, optimizer: adamw({ lr: 1e-3 }) });
 * ```
 */
export async function fit(objective: Objective, given: FitOptions): Promise<TrainResult> {
  const options = { ...given, session: longRunning(given.session) };
  if (!options.runDir) return runFit(objective, options);
  await makeDir(options.runDir);
  const release = await holdLock(options.runDir);
  try {
    return await runFit(objective, options);
  } finally {
    await release();
  }
}

async function runFit(objective: Objective, options: FitOptions): Promise<TrainResult> {
  const run = startRun(objective, options);
  const resumed = options.runDir && options.resume ? await resume(run, options) : undefined;
  const metrics = options.runDir
    ? await openMetrics(joinPath(options.runDir, "metrics.jsonl"), resumed ? { resumeAt: run.step } : {})
    : undefined;
  const stepper = createStepper(objective, options);
  const evaluator = objective.validation && createEvaluator(objective, options);
  const evaluate =
    evaluator && ((most?: number) => evaluator.run(first(objective.validation?.() ?? [], most)));
  const groups = stepGroups(run, options);
  try {
    return await loop(run, options, { stepper, evaluate, metrics, groups });
  } finally {
    await closeAll([async () => void (await groups.return(undefined)), stepper.close, evaluator?.close]);
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

/** Evaluates the weights as they are, on all held-out batches or the first few. */
type Evaluate = (batches?: number) => Promise<Evaluation>;

function startRun(objective: Objective, options: FitOptions): Run {
  const { optimizer, patience, fastForward: phase } = options;
  if (phase && !objective.validation) {
    throw new TunesmithError("config-invalid", "fastForward has no validation data to look at", {
      fix: "give validation data: a few dozen examples are enough",
    });
  }
  const { parameters } = objective.model;
  const trained = [...parameters.values()].filter((parameter) => parameter.trainable);
  const params = new Map(trained.map(({ name, tensor }) => [name, tensor.data as Float32Array] as const));
  const shapes = new Map(trained.map(({ name, tensor }) => [name, tensor.shape] as const));
  return {
    objective,
    hooks: objective.model.trainingHooks?.() ?? {},
    params,
    state: optimizer.init(params, shapes),
    guard: zeroUpdateGuard(params),
    stopping: patience ? earlyStopping(params, { patience }) : undefined,
    forward: phase && fastForward(phase),
    step: 0,
    metric: undefined,
    position: { epoch: 0, step: 0 },
  };
}

interface Parts {
  readonly stepper: Stepper;
  readonly evaluate: Evaluate | undefined;
  readonly metrics: MetricsWriter | undefined;
  readonly groups: AsyncGenerator<readonly StepBatch[]>;
}

async function loop(run: Run, options: FitOptions, parts: Parts): Promise<TrainResult> {
  const { stepper, evaluate, metrics, groups } = parts;
  const { steps, onEvent, evalEvery = 0, saveEvery = 0, optimizer } = options;
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
    const { loss, gradNorm } = await update(run, group, options, stepper);
    finalLoss = loss;
    meter.step(group.reduce((sum, batch) => sum + batch.size, 0));
    const learningRate = optimizer.learningRate(run.step);
    const { step } = run;
    const tokensPerSecond = meter.tokensPerSecond();
    const event = { step, loss, learningRate, gradNorm, tokensPerSecond };
    onEvent?.({ type: "step", steps, ...event, remainingSeconds: meter.remainingSeconds() });
    await metrics?.write({ ...event, ...optimizer.report?.(run.state, step) });
    if (run.forward && evaluate) await forwardStage(run, run.forward, options, evaluate);
    const isLast = step === steps;
    if (evaluate && (isLast || (evalEvery > 0 && step % evalEvery === 0))) {
      const observed = await onEvaluationWeights(optimizer, run.params, run.state, async () => {
        const found = await evaluate();
        return { found, stop: run.stopping?.observe(step, found.loss).stop ?? false };
      });
      evaluation = observed.found;
      run.metric = { step, loss: evaluation.loss };
      onEvent?.({ type: "evaluation", step, ...evaluation });
      await metrics?.write({ step, evalLoss: evaluation.loss, ...prefixed(evaluation.scores) });
      if (observed.stop) break;
    }
    if (saveEvery > 0 && options.runDir && (isLast || step % saveEvery === 0)) {
      const folder = await save(run, options);
      onEvent?.({ type: "checkpoint", step, folder });
    }
  }
  // The weights the optimiser means to give: averages, schedule-free ones. What early stopping kept are such already.
  optimizer.enterEvaluation?.(run.params, run.state);
  if (run.stopping) {
    restoredStep = run.stopping.restoreBest();
    if (evaluate && restoredStep !== undefined && restoredStep !== run.step) evaluation = await evaluate();
  }
  return { steps: run.step, finalLoss, evaluation, tokensPerSecond: meter.tokensPerSecond(), restoredStep };
}

/** A stage of Fast Forward when one is due. */
async function forwardStage(run: Run, forward: FastForward, options: FitOptions, evaluate: Evaluate) {
  const batches = options.fastForward?.validationBatches;
  const validate = async () => (await evaluate(batches)).loss;
  const stage = await forward.afterUpdate(run.step, run.params, validate);
  if (stage) options.onEvent?.({ type: "fastForward", ...stage });
}

/** A cancelled run leaves a checkpoint where it keeps any, so that it can be continued. */
async function cancelled(run: Run, options: FitOptions) {
  const saves = options.runDir !== undefined && (options.saveEvery ?? 0) > 0 && run.step > 0;
  if (saves) {
    const folder = await save(run, options);
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
async function* stepGroups(run: Run, options: FitOptions): AsyncGenerator<readonly StepBatch[]> {
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

/** What must be the same for a run to be continued. */
function identity({ objective }: Run, options: FitOptions): PlainData {
  const { accumulate = 1, seed = 0, optimizer, config = {} } = options;
  return {
    objective: objective.name,
    ...objective.identity,
    accumulate,
    seed,
    optimizer: optimizer.name,
    ...(options.fastForward ? { fastForward: { ...options.fastForward } as PlainData } : {}),
    ...config,
  };
}

async function save(run: Run, options: FitOptions): Promise<string> {
  const best = run.stopping?.best();
  return saveCheckpoint(String(options.runDir), {
    state: {
      step: run.step,
      epoch: run.position.epoch,
      data: { ...run.position },
      zeroUpdate: run.guard.state(),
      ...(run.hooks.state ? { method: run.hooks.state() as PlainData } : {}),
      // Only what was measured on these very weights may choose the best checkpoint.
      ...(run.metric?.step === run.step ? { metric: run.metric.loss } : {}),
      ...(run.stopping ? { earlyStopping: run.stopping.state() } : {}),
      ...(run.forward ? { fastForward: { ...run.forward.state() } } : {}),
    },
    params: run.params,
    optimizer: run.state,
    config: identity(run, options),
    ...(best ? { best } : {}),
  });
}

/** Puts a run where its newest complete checkpoint left it. */
async function resume(run: Run, options: FitOptions): Promise<Checkpoint | undefined> {
  const { checkpoint } = await loadLatest(String(options.runDir), { config: identity(run, options) });
  if (!checkpoint) return undefined;
  restoreParams(run.params, checkpoint.params);
  restoreOptimizerState(run.state, checkpoint.optimizer);
  if (checkpoint.state.zeroUpdate) run.guard.restore(checkpoint.state.zeroUpdate);
  if (checkpoint.state.earlyStopping) run.stopping?.restore(checkpoint.state.earlyStopping, checkpoint.best);
  if (checkpoint.state.fastForward) run.forward?.restore(checkpoint.state.fastForward);
  if (checkpoint.state.method !== undefined) run.hooks.restore?.(checkpoint.state.method);
  run.step = checkpoint.state.step;
  run.position = checkpoint.state.data as { epoch: number; step: number };
  options.onEvent?.({ type: "resumed", step: run.step });
  return checkpoint;
}
