import { TunesmithError } from "../errors/index.js";
import { copyParams, parameterOf } from "./optim/state.js";
import type { Params } from "./optim/types.js";

/** Settings of `fastForward`. */
export interface FastForwardOptions {
  /** Ordinary updates between stages. Default 6. */
  readonly interval?: number;
  /** Ordinary updates before the first stage. Default 6. */
  readonly burnIn?: number;
  /** Most trials of a stage; 0: no stages. Default 1000. */
  readonly maxTrials?: number;
  /** Put the best weights back instead of keeping the last, worse ones as the paper's code does. Default false. */
  readonly revert?: boolean;
  /** "geometric" tries 1, 2, 4, ... and then bisects: fewer trials; it keeps the best weights. Default "linear". */
  readonly growth?: "linear" | "geometric";
  /** Trials without improvement that end a stage. Default 1. */
  readonly patience?: number;
  /** Double the interval, up to eight times, while stages gain less than two steps. Default false. */
  readonly adaptive?: boolean;
  /** FLOPs of a forward pass over an update's batch, and over the validation examples. Default 0: not counted. */
  readonly flops?: { readonly batchForward: number; readonly validationForward: number };
}

/** What a stage did. */
export interface FastForwardStage {
  /** The update after which it ran. */
  readonly step: number;
  /** Times the last increment was added. */
  readonly tau: number;
  readonly trials: number;
  /** Validation loss before the stage; undefined where it was not measured (linear without `revert`). */
  readonly valBefore: number | undefined;
  readonly valAfter: number;
  /** Validation losses in the order of the trials, and their multiples. */
  readonly losses: readonly number[];
  readonly taus: readonly number[];
  readonly trialFlops: number;
}

/** Work done so far; FLOPs are 0 unless `flops` is given. An update counts three forward passes. */
export interface FastForwardReport {
  readonly updates: number;
  readonly stages: number;
  readonly trials: number;
  readonly trainFlops: number;
  readonly trialFlops: number;
  /** Additions to parameters by trials. */
  readonly updateFlops: number;
}

/** Where the phase stands, as plain data for a checkpoint. */
export interface FastForwardState {
  readonly nextStage: number;
  readonly interval: number;
  readonly updates: number;
  readonly stages: number;
  readonly trials: number;
  readonly forwards: number;
  readonly additions: number;
}

/** Controls stages of an otherwise ordinary loop. */
export interface FastForward {
  /** Before update `step` (1-based): keeps the weights if a stage follows the update. */
  beforeUpdate(step: number, params: Params): void;
  /**
   * After update `step`: runs the stage if it is due, and leaves its result in `params`. `validate` gives the loss of the
   * weights now in `params` on the fixed validation examples, without dropout.
   */
  afterUpdate(
    step: number,
    params: Params,
    validate: () => Promise<number>,
  ): Promise<FastForwardStage | undefined>;
  report(): FastForwardReport;
  state(): FastForwardState;
  restore(state: FastForwardState): void;
}

/**
 * Fast Forward (arXiv 2409.04206): every few updates, the last increment of the weights is added again and again while a
 * small validation loss falls. Only forward passes; the optimiser's state and schedule are not touched. For low-rank
 * adapters: the paper finds no gain for full fine-tuning.
 *
 * @throws `config-invalid` for a setting out of range.
 *
 * @example
 * ```ts
 * import { fastForward, sgd } from "tunesmith/training";
 * const params = new Map([["w", Float32Array.of(1)]]);
 * const optimizer = sgd({ lr: 0.1 });
 * const state = optimizer.init(params);
 * const forward = fastForward({ revert: true });
 * for (let step = 1; step <= 12; step++) {
 *   forward.beforeUpdate(step, params);
 *   optimizer.step(params, new Map([["w", (params.get("w") as Float32Array).slice()]]), state, { step });
 *   const stage = await forward.afterUpdate(step, params, async () => Number(params.get("w")?.[0]) ** 2 / 2);
 *   if (stage) console.log(stage.step, stage.tau); // 6 9
 * }
 * ```
 */
export function fastForward(options: FastForwardOptions = {}): FastForward {
  const settings = settingsOf(options);
  const { interval, burnIn, maxTrials, adaptive, flops } = settings;
  let state: FastForwardState = {
    nextStage: Math.max(1, burnIn),
    interval,
    ...{ updates: 0, stages: 0, trials: 0, forwards: 0, additions: 0 },
  };
  let before: Params | undefined;
  return {
    beforeUpdate(step, params) {
      before = maxTrials > 0 && step >= state.nextStage ? copyParams(params) : undefined;
    },
    async afterUpdate(step, params, validate) {
      state = { ...state, updates: state.updates + 1 };
      if (!before) return undefined;
      const line = lineOf(before, params);
      before = undefined;
      const search = settings.growth === "linear" ? linearSearch : geometricSearch;
      const found = await search(line, validate, settings);
      line.moveTo(found.tau);
      const next = adaptive && found.tau < 2 ? Math.min(8 * interval, 2 * state.interval) : interval;
      const forwards = found.losses.length + (found.valBefore === undefined ? 0 : 1);
      state = {
        nextStage: step + next,
        interval: next,
        updates: state.updates,
        stages: state.stages + 1,
        trials: state.trials + found.losses.length,
        forwards: state.forwards + forwards,
        additions: state.additions + found.losses.length * line.size,
      };
      const trialFlops = forwards * flops.validationForward + found.losses.length * line.size;
      return { step, trials: found.losses.length, trialFlops, ...found };
    },
    report: () => ({
      updates: state.updates,
      stages: state.stages,
      trials: state.trials,
      trainFlops: 3 * flops.batchForward * state.updates,
      trialFlops: flops.validationForward * state.forwards,
      updateFlops: state.additions,
    }),
    state: () => state,
    restore(saved) {
      state = saved;
      before = undefined;
    },
  };
}

type Settings = Required<FastForwardOptions>;

function settingsOf(options: FastForwardOptions): Settings {
  const settings: Settings = {
    interval: 6,
    burnIn: 6,
    maxTrials: 1000,
    revert: false,
    growth: "linear",
    patience: 1,
    adaptive: false,
    flops: { batchForward: 0, validationForward: 0 },
    ...options,
  };
  for (const [key, least] of [
    ["interval", 1],
    ["burnIn", 0],
    ["maxTrials", 0],
    ["patience", 1],
  ] as const) {
    if (Number.isSafeInteger(settings[key]) && settings[key] >= least) continue;
    throw new TunesmithError("config-invalid", `fastForward: ${key} is ${settings[key]}`, {
      fix: `give a whole number of at least ${least}`,
    });
  }
  return settings;
}

/** The line through the weights along their last increment. */
interface Line {
  readonly size: number;
  /** Sets the weights to theta + tau * increment, from the same theta each time, so that rounding does not add up. */
  moveTo(tau: number): void;
}

function lineOf(before: Params, params: Params): Line {
  const base = copyParams(params);
  let size = 0;
  for (const [name, start] of before) {
    const now = parameterOf(params, name, start.length);
    // The copy of the earlier weights becomes the increment.
    for (let i = 0; i < start.length; i++) start[i] = (now[i] as number) - (start[i] as number);
    size += start.length;
  }
  return {
    size,
    moveTo(tau) {
      for (const [name, increment] of before) {
        const theta = base.get(name) as Float32Array;
        const weights = params.get(name) as Float32Array;
        if (tau === 0) weights.set(theta);
        else
          for (let i = 0; i < theta.length; i++)
            weights[i] = (theta[i] as number) + tau * (increment[i] as number);
      }
    },
  };
}

interface Found {
  readonly tau: number;
  readonly valBefore: number | undefined;
  readonly valAfter: number;
  readonly losses: readonly number[];
  readonly taus: readonly number[];
}

type Search = (line: Line, validate: () => Promise<number>, settings: Settings) => Promise<Found>;

/**
 * tau = 1, 2, 3, ... until the loss stops falling. The first trial is compared with the start only if `revert` is set. A
 * loss that is not finite is never kept.
 */
const linearSearch: Search = async (line, validate, { maxTrials, patience, revert }) => {
  const valBefore = revert ? await validate() : undefined;
  const losses: number[] = [];
  let best = { tau: 0, loss: valBefore ?? Number.POSITIVE_INFINITY };
  for (let stale = 0; losses.length < maxTrials && stale < patience; ) {
    line.moveTo(losses.length + 1);
    const loss = await validate();
    losses.push(loss);
    stale = loss < best.loss ? 0 : stale + 1;
    if (stale === 0) best = { tau: losses.length, loss };
  }
  const last = { tau: losses.length, loss: losses.at(-1) as number };
  const { tau, loss } = revert || !Number.isFinite(last.loss) ? best : last;
  return { tau, valBefore, valAfter: loss, losses, taus: losses.map((_, at) => at + 1) };
};

/** tau = 1, 2, 4, ... until the loss stops falling, then bisection around the best. */
const geometricSearch: Search = async (line, validate, { maxTrials, patience }) => {
  const valBefore = await validate();
  const losses: number[] = [];
  const taus: number[] = [];
  const at = async (tau: number): Promise<number> => {
    line.moveTo(tau);
    const loss = await validate();
    losses.push(loss);
    taus.push(tau);
    return loss;
  };
  let best = { tau: 0, loss: valBefore };
  let [low, high] = [0, 0];
  for (let tau = 1, stale = 0; losses.length < maxTrials && stale < patience; tau *= 2) {
    const loss = await at(tau);
    stale = loss < best.loss ? 0 : stale + 1;
    high = stale === 1 ? tau : high;
    if (stale > 0) continue;
    low = best.tau;
    best = { tau, loss };
  }
  while (high - low > 2 && losses.length < maxTrials && high > best.tau) {
    const right = high - best.tau >= best.tau - low;
    const tau = Math.floor(right ? (best.tau + high) / 2 : (low + best.tau) / 2);
    if (tau === best.tau) break;
    const loss = await at(tau);
    if (loss < best.loss) {
      if (right) low = best.tau;
      else high = best.tau;
      best = { tau, loss };
    } else if (right) high = tau;
    else low = tau;
  }
  return { tau: best.tau, valBefore, valAfter: best.loss, losses, taus };
};
