import { joinPath, makeDir } from "#io";
import { batches, type LoadedBatch, type Pack, planBatches } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import type { CausalLm } from "../models/index.js";
import { longRunning, type SessionOptions } from "../runtime/index.js";
import { type Checkpoint, loadLatest, saveCheckpoint } from "./checkpoint.js";
import { earlyStopping } from "./early-stopping.js";
import { createEvaluator, type Evaluation } from "./evaluate.js";
import type { PlainData } from "./exact-json.js";
import { checkFinite, zeroUpdateGuard } from "./guards.js";
import { progressMeter } from "./meters.js";
import { type MetricsWriter, openMetrics } from "./metrics.js";
import {
  globalNorm,
  type Optimizer,
  type OptimizerState,
  type Params,
  restoreOptimizerState,
  restoreParams,
} from "./optim/index.js";
import { checkPacks, checkTrained, knownPadId } from "./packable.js";
import { closeAll, createStepper, type Stepper } from "./stepper.js";

export interface TrainOptions {
  readonly train: readonly Pack[];
  readonly validation?: readonly Pack[];
  /** Rows per micro-batch. */
  readonly batchSize: number;
  /** Row lengths; one compiled session each. */
  readonly lengths: readonly number[];
  /** Micro-batches per update; the loss is the mean over all their tokens. Default 1. */
  readonly accumulate?: number;
  readonly steps: number;
  readonly optimizer: Optimizer;
  /** Seed of data order and dropout. Default 0. */
  readonly seed?: number;
  readonly padId: number;
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
  /** Default in Node: sessions in a worker, so that the event loop stays free. */
  readonly session?: SessionOptions;
  readonly chunkRows?: number;
  readonly recompute?: boolean;
  /** Most bytes of activations below the first trained block to keep between epochs, in memory and on disk. Default 0. */
  readonly prefixCacheBytes?: number;
  readonly prefixDiskBytes?: number;
  /** Called after every update and evaluation. */
  readonly onEvent?: (event: TrainEvent) => void;
  readonly signal?: AbortSignal;
}

export type TrainEvent =
  | {
      readonly type: "step";
      readonly step: number;
      readonly steps: number;
      /** Mean cross-entropy per trained token of this update's batch. */
      readonly loss: number;
      readonly learningRate: number;
      readonly gradNorm: number;
      readonly tokensPerSecond: number;
      readonly remainingSeconds: number | undefined;
    }
  | ({ readonly type: "evaluation"; readonly step: number } & Evaluation)
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

interface Run {
  readonly params: Params;
  readonly state: OptimizerState;
  readonly guard: ReturnType<typeof zeroUpdateGuard>;
  readonly stopping: ReturnType<typeof earlyStopping> | undefined;
  /** Identifies the rows that are trained on. */
  readonly dataHash: string;
  /** Updates done. */
  step: number;
  /** Loss of the latest evaluation, and the step whose weights it measured. */
  metric: { readonly step: number; readonly loss: number } | undefined;
  /** Position of the data iterator after the last update. */
  position: { epoch: number; step: number };
}

/**
 * Trains a model's parameters in place. Deterministic by seed; a run that was killed continues from its last checkpoint
 * with the same numbers, bit for bit.
 *
 * Throws `zero-update` (nothing to train, or nothing changes), `loss-not-finite`, `checkpoint-mismatch`, `data-empty`,
 * `cancelled`.
 *
 * @example
 * ```ts
 * import { packExamples } from "tunesmith/data";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, train } from "tunesmith/training";
 * export async function tune(model: CausalLm, ids: Int32Array) {
 *   const examples = [{ ids, lossMask: new Uint8Array(ids.length).fill(1, 1) }];
 *   const packs = packExamples(examples, { length: 128 });
 *   return train(model, { train: packs, batchSize: 1, lengths: [128], steps: 10, padId: 0, optimizer: adamw({ lr: 1e-3 }) });
 * }
 * ```
 */
export async function train(model: CausalLm, given: TrainOptions): Promise<TrainResult> {
  const options = { ...given, padId: knownPadId(model, given.padId), session: longRunning(given.session) };
  const run = startRun(model, options);
  const resumed = options.runDir && options.resume ? await resume(run, options) : undefined;
  if (options.runDir) await makeDir(options.runDir);
  const metrics = options.runDir
    ? await openMetrics(joinPath(options.runDir, "metrics.jsonl"), resumed ? { resumeAt: run.step } : {})
    : undefined;
  const stepper = createStepper(model, { ...options, seed: options.seed ?? 0 });
  const evaluator = options.validation && createEvaluator(model, options);
  try {
    return await loop(run, options, stepper, evaluator, metrics);
  } finally {
    await closeAll([stepper.close, evaluator?.close]);
  }
}

function startRun(
  model: CausalLm,
  { optimizer, patience, train: packs, validation = [], batchSize, lengths }: TrainOptions,
): Run {
  checkPacks(model, packs);
  const trained = [...model.parameters.values()].filter((parameter) => parameter.trainable);
  const params = new Map(trained.map(({ name, tensor }) => [name, tensor.data as Float32Array] as const));
  if (planBatches(packs, { batchSize, lengths }).length === 0) {
    throw new TunesmithError("data-empty", "there is nothing to train on", {
      fix: "check the dataset's report",
    });
  }
  checkTrained(packs, "training data");
  // What is wrong with the held-out rows would otherwise show after the training.
  if (validation.length > 0) {
    checkPacks(model, validation);
    planBatches(validation, { batchSize, lengths });
    checkTrained(validation, "validation data");
  }
  return {
    params,
    state: optimizer.init(params),
    guard: zeroUpdateGuard(params),
    stopping: patience ? earlyStopping(params, { patience }) : undefined,
    dataHash: hashOf(packs),
    step: 0,
    metric: undefined,
    position: { epoch: 0, step: 0 },
  };
}

async function loop(
  run: Run,
  options: TrainOptions,
  stepper: Stepper,
  evaluator: ReturnType<typeof createEvaluator> | undefined,
  metrics: MetricsWriter | undefined,
): Promise<TrainResult> {
  const { steps, onEvent, validation = [], evalEvery = 0, saveEvery = 0 } = options;
  const meter = progressMeter({ totalSteps: steps, firstStep: run.step });
  const groups = stepGroups(run, options);
  let [finalLoss, evaluation, restoredStep]: [number, Evaluation | undefined, number | undefined] = [
    Number.NaN,
    undefined,
    undefined,
  ];
  while (run.step < steps) {
    if (options.signal?.aborted) throw await cancelled(run, options);
    const group = groups.next().value as readonly LoadedBatch[];
    const { loss, gradNorm } = await update(run, group, options, stepper);
    finalLoss = loss;
    meter.step(group.reduce((sum, batch) => sum + batch.tokens, 0));
    const learningRate = options.optimizer.learningRate(run.step);
    const { step } = run;
    onEvent?.({
      type: "step",
      step,
      steps,
      loss,
      learningRate,
      gradNorm,
      tokensPerSecond: meter.tokensPerSecond(),
      remainingSeconds: meter.remainingSeconds(),
    });
    await metrics?.write({ step, loss, learningRate, gradNorm, tokensPerSecond: meter.tokensPerSecond() });
    const isLast = step === steps;
    if (evaluator && validation.length > 0 && (isLast || (evalEvery > 0 && step % evalEvery === 0))) {
      evaluation = await evaluator.run(validation);
      run.metric = { step, loss: evaluation.loss };
      onEvent?.({ type: "evaluation", step, ...evaluation });
      await metrics?.write({ step, evalLoss: evaluation.loss, evalPerplexity: evaluation.perplexity });
      if (run.stopping?.observe(step, evaluation.loss).stop) break;
    }
    if (saveEvery > 0 && options.runDir && (isLast || step % saveEvery === 0)) {
      const folder = await save(run, options);
      onEvent?.({ type: "checkpoint", step, folder });
    }
  }
  if (run.stopping) {
    restoredStep = run.stopping.restoreBest();
    if (evaluator && restoredStep !== undefined && restoredStep !== run.step)
      evaluation = await evaluator.run(validation);
  }
  return { steps: run.step, finalLoss, evaluation, tokensPerSecond: meter.tokensPerSecond(), restoredStep };
}

/** A cancelled run leaves a checkpoint where it keeps any, so that it can be continued. */
async function cancelled(run: Run, options: TrainOptions) {
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

/** Micro-batches of each update, epoch after epoch, from where the run stands. */
function* stepGroups(run: Run, options: TrainOptions): Generator<readonly LoadedBatch[]> {
  const { accumulate = 1, train: packs, batchSize, lengths, padId, seed = 0 } = options;
  const source = batches(packs, {
    batchSize,
    lengths,
    padId,
    seed,
    epoch: run.position.epoch,
    startStep: run.position.step,
    endEpoch: Number.POSITIVE_INFINITY,
  });
  for (let group: LoadedBatch[] = []; ; group = []) {
    while (group.length < accumulate) group.push(source.next().value as LoadedBatch);
    yield group;
  }
}

/** One optimiser step: gradients of all micro-batches, guards, update. */
async function update(run: Run, group: readonly LoadedBatch[], options: TrainOptions, stepper: Stepper) {
  const step = run.step + 1;
  const targets = group.reduce((sum, batch) => sum + batch.targets, 0);
  let loss = 0;
  let total: Map<string, Float32Array> | undefined;
  for (const [micro, batch] of group.entries()) {
    const result = await stepper.run(batch, targets, [step, micro]);
    loss += result.loss;
    total = total ? accumulateInto(total, result.gradients) : new Map(result.gradients);
  }
  const grads = total ?? new Map<string, Float32Array>();
  const gradNorm = globalNorm(grads);
  checkFinite({ step, loss, grads, gradNorm });
  run.guard.checkGrads(step, grads);
  options.optimizer.step(run.params, grads, run.state, { step });
  run.guard.checkUpdate(step, options.optimizer.learningRate(step));
  run.step = step;
  run.position = group.at(-1)?.state ?? run.position;
  return { loss, gradNorm };
}

function accumulateInto(total: Map<string, Float32Array>, more: Params): Map<string, Float32Array> {
  for (const [name, gradient] of more) {
    const sum = total.get(name);
    if (!sum) total.set(name, gradient);
    else for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (gradient[i] as number);
  }
  return total;
}

/** FNV-1a over the tokens of all rows and what of them is trained, in their order. */
function hashOf(packs: readonly Pack[]): string {
  let hash = 0x811c9dc5 | 0;
  const add = (word: number) => {
    hash = Math.imul(hash ^ word, 0x01000193);
  };
  for (const { examples } of packs) {
    add(examples.length);
    for (const { ids, lossMask } of examples)
      for (let at = 0; at < ids.length; at++) add(2 * (ids[at] as number) + (lossMask[at] as number));
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** What must be the same for a run to be continued. */
function identity({ dataHash }: Run, options: TrainOptions): PlainData {
  const { batchSize, lengths, accumulate = 1, seed = 0, optimizer, train: packs, config = {} } = options;
  const tokens = packs.reduce((sum, pack) => sum + pack.tokens, 0);
  return {
    batchSize,
    lengths: [...lengths],
    accumulate,
    seed,
    optimizer: optimizer.name,
    packs: packs.length,
    tokens,
    dataHash,
    ...config,
  };
}

async function save(run: Run, options: TrainOptions): Promise<string> {
  const best = run.stopping?.best();
  return saveCheckpoint(String(options.runDir), {
    state: {
      step: run.step,
      epoch: run.position.epoch,
      data: { ...run.position },
      zeroUpdate: run.guard.state(),
      // Only what was measured on these very weights may choose the best checkpoint.
      ...(run.metric?.step === run.step ? { metric: run.metric.loss } : {}),
      ...(run.stopping ? { earlyStopping: run.stopping.state() } : {}),
    },
    params: run.params,
    optimizer: run.state,
    config: identity(run, options),
    ...(best ? { best } : {}),
  });
}

/** Puts a run where its newest complete checkpoint left it. */
async function resume(run: Run, options: TrainOptions): Promise<Checkpoint | undefined> {
  const { checkpoint } = await loadLatest(String(options.runDir), { config: identity(run, options) });
  if (!checkpoint) return undefined;
  restoreParams(run.params, checkpoint.params);
  restoreOptimizerState(run.state, checkpoint.optimizer);
  if (checkpoint.state.zeroUpdate) run.guard.restore(checkpoint.state.zeroUpdate);
  if (checkpoint.state.earlyStopping) run.stopping?.restore(checkpoint.state.earlyStopping, checkpoint.best);
  run.step = checkpoint.state.step;
  run.position = checkpoint.state.data as { epoch: number; step: number };
  options.onEvent?.({ type: "resumed", step: run.step });
  return checkpoint;
}
