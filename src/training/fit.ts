import { holdLock, joinPath, makeDir } from "#io";
import { TunesmithError } from "../errors/index.js";
import type { Parameter, TrainingHooks } from "../models/index.js";
import { longRunning, type SessionOptions } from "../runtime/index.js";
import { cadence } from "./cadence.js";
import { earlyStopping } from "./early-stopping.js";
import { createEvaluator, type Evaluation } from "./evaluate.js";
import type { PlainData } from "./exact-json.js";
import {
  type FastForward,
  type FastForwardOptions,
  type FastForwardStage,
  fastForward,
} from "./fast-forward.js";
import { resumeRun, saveRun } from "./fit-checkpoint.js";
import { createUpdater, type Updater, updatesInGraph } from "./graph-update.js";
import { zeroUpdateGuard } from "./guards.js";
import { type LossSpikeOptions, type LossSpikes, lossSpikes } from "./loss-spikes.js";
import { type FitSettings, withinMemory } from "./memory-budget.js";
import { memoryError } from "./memory-error.js";
import { progressMeter } from "./meters.js";
import { type MethodKeeper, type MethodState, methodKeeper } from "./method-state.js";
import { type MetricsWriter, openMetrics } from "./metrics.js";
import { type NoiseScale, noiseScale } from "./noise-scale.js";
import type { Objective, StepBatch, StepShape } from "./objective.js";
import { type Optimizer, type OptimizerState, onEvaluationWeights, type Params } from "./optim/index.js";
import { closeAll, createStepper, type Stepper, type StepperOptions } from "./stepper.js";
import { update } from "./update.js";

export interface FitOptions extends Omit<StepperOptions, "session" | "recompute"> {
  /**
   * Recompute activations in the backward pass: of all blocks, of so many from the first, or ("auto") of as few as make the
   * run fit `memory`. Default false.
   */
  readonly recompute?: boolean | number | "auto";
  /** What the process may take at its peak, and the largest batch; a run that will not fit ends before its first step. */
  readonly memory?: { readonly budget: number; readonly shape: StepShape } | undefined;
  /** Whether a run ends in which nothing changes. Default true. */
  readonly guardZeroUpdates?: boolean;
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
  /** Updates between checkpoints; "auto": as often as costs at most 2 % of the time; 0: none. Default 0. */
  readonly saveEvery?: number | "auto";
  /** Stop after so many evaluations without improvement, and restore the best; needs `evalEvery`. Default: never. */
  readonly patience?: number;
  /** What `patience` and the best checkpoint go by: `loss`, or the name of a score. Default: the loss, falling. */
  readonly stopOn?: { readonly metric?: string; readonly mode?: "min" | "max"; readonly minDelta?: number };
  /** Further scores of every evaluation, such as those of generated text (`generationScores`). */
  readonly evaluators?: readonly Scorer[];
  /** Leave out updates whose loss jumps, or stop there. Default: neither. */
  readonly lossSpike?: LossSpikeOptions;
  /** Whether updates run as a graph. Default "auto": where that is faster. */
  readonly updateIn?: "auto" | "loop" | "graph";
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

/** Scores of the weights as they are, by name. */
export type Scorer = (at: { readonly step: number }) => Promise<Readonly<Record<string, number>>>;

export type TrainEvent =
  | {
      readonly type: "step";
      readonly step: number;
      readonly steps: number;
      /** Mean loss per item of this update's batch: cross-entropy per trained token of a language model. */
      readonly loss: number;
      readonly learningRate: number;
      readonly gradNorm: number;
      /** Whether the update was left out because the loss jumped. */
      readonly skipped?: true;
      /** Gradient noise scale in items (arXiv 1812.06162), with accumulated batches. */
      readonly noiseScale?: number;
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
  readonly method: MethodKeeper;
  readonly params: Params;
  readonly state: OptimizerState;
  readonly guard: ReturnType<typeof zeroUpdateGuard>;
  readonly stopping: ReturnType<typeof earlyStopping> | undefined;
  readonly forward: FastForward | undefined;
  readonly spikes: LossSpikes | undefined;
  readonly noise: NoiseScale | undefined;
  readonly updater: Updater;
  /** What the method kept when the best parameters were measured. */
  bestMethod: MethodState | undefined;
  /** Of the batch that runs, or ran last. */
  shape: StepShape | undefined;
  /** Updates done. */
  step: number;
  /** What the latest evaluation is judged by, and the step whose weights it measured. */
  metric: { readonly step: number; readonly value: number } | undefined;
  /** Position of the data iterator after the last update. */
  position: { epoch: number; step: number };
}

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

/** An option that would do nothing is a mistake. Throws `config-invalid`. */
function checkEvaluations({ validation }: Objective, options: FitSettings): void {
  const { patience, evalEvery = 0, stopOn, evaluators = [], fastForward: phase } = options;
  const wrong = (message: string, fix: string) => new TunesmithError("config-invalid", message, { fix });
  if (phase && !validation) {
    const fix = "give validation data: a few dozen examples are enough";
    throw wrong("fastForward has no validation data to look at", fix);
  }
  if (patience === undefined) return;
  if (!validation && evaluators.length === 0)
    throw wrong("patience: there is nothing to evaluate", "give validation data, or evaluators");
  if (!validation && (stopOn?.metric ?? "loss") === "loss")
    throw wrong(
      "patience: without validation data there is no loss to go by",
      "name a score in stopOn.metric",
    );
  if (evalEvery === 0)
    throw wrong(
      "patience counts evaluations, and there is only the last",
      "set evalEvery, the steps between",
    );
}

function startRun(objective: Objective, options: FitSettings): Run {
  checkEvaluations(objective, options);
  const { optimizer, patience, fastForward: phase, accumulate = 1, updateIn = "auto" } = options;
  const { parameters } = objective.model;
  const hooks = objective.model.trainingHooks?.() ?? {};
  const trained = [...parameters.values()].filter((parameter) => parameter.trainable);
  const params = new Map(trained.map(({ name, tensor }) => [name, tensor.data as Float32Array] as const));
  const shapes = new Map(trained.map(({ name, tensor }) => [name, tensor.shape] as const));
  const inGraph = updateIn === "auto" ? updatesInGraph(optimizer, shapes) : updateIn === "graph";
  if (inGraph && !optimizer.graph) {
    throw new TunesmithError("config-invalid", `updateIn: there is no graph of ${optimizer.name}`, {
      fix: "leave updateIn out, or use sgd, adamw, lion, adafactor or muon",
    });
  }
  return {
    objective,
    hooks,
    method: methodKeeper(objective.model, hooks),
    params,
    state: optimizer.init(params, shapes),
    guard: zeroUpdateGuard(params, {
      ...(options.guardZeroUpdates === false ? { patience: Number.POSITIVE_INFINITY } : {}),
      mayBeZero: (name) => mayBeZero(parameters.get(name)),
      groupOf: (name) => parameters.get(name)?.routed,
    }),
    stopping:
      patience === undefined ? undefined : earlyStopping(params, { patience, ...rulesOf(options.stopOn) }),
    forward: phase && fastForward(phase),
    spikes: options.lossSpike && lossSpikes(options.lossSpike),
    noise: accumulate > 1 ? noiseScale() : undefined,
    updater: createUpdater(optimizer, shapes, inGraph, options.session),
    bestMethod: undefined,
    shape: undefined,
    step: 0,
    metric: undefined,
    position: { epoch: 0, step: 0 },
  };
}

const rulesOf = ({ mode, minDelta }: NonNullable<FitOptions["stopOn"]> = {}) => ({
  ...(mode ? { mode } : {}),
  ...(minDelta === undefined ? {} : { minDelta }),
});

/** Parameters that a batch need not reach: rows of rare tokens, experts that a router chooses among. */
const mayBeZero = (parameter: Parameter | undefined): boolean =>
  parameter?.rare === true || /(^|[./])experts?[./]\d+[./]/.test(parameter?.name ?? "");

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
