import { TunesmithError } from "../errors/index.js";
import type { Parameter, TrainingHooks } from "../models/index.js";
import { earlyStopping } from "./early-stopping.js";
import { type FastForward, fastForward } from "./fast-forward.js";
import type { FitOptions } from "./fit-types.js";
import { createUpdater, type Updater, updatesInGraph } from "./graph-update.js";
import { zeroUpdateGuard } from "./guards.js";
import { type LossSpikes, lossSpikes } from "./loss-spikes.js";
import type { FitSettings } from "./memory-budget.js";
import { type MethodKeeper, type MethodState, methodKeeper } from "./method-state.js";
import { type NoiseScale, noiseScale } from "./noise-scale.js";
import type { Objective, StepShape } from "./objective.js";
import type { OptimizerState, Params } from "./optim/index.js";

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

/** A run before its first step. Throws `config-invalid` for options that do not go together. */
export function startRun(objective: Objective, options: FitSettings): Run {
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
