import { fromStep, type OptimizerOptions, ratesOf, swapIn } from "./finished.js";
import { requireNumber } from "./groups.js";
import { constant } from "./schedules.js";
import { copyParams, createState, parameterOf, scalarOfState, slotOf } from "./state.js";
import type { Optimizer, OptimizerState, Params } from "./types.js";

/** Settings of the schedule-free optimisers. */
export interface ScheduleFreeOptions extends Omit<OptimizerOptions, "maxGradNorm"> {
  /** Later weights count (step)^power in the average. Default 0. */
  readonly power?: number | undefined;
  /** Weights count (largest learning rate so far)^this in the average, so that warm-up counts less. Default 2. */
  readonly lrPower?: number | undefined;
}

/**
 * Schedule-free AdamW (arXiv 2405.15682), the numbers of `AdamWScheduleFree` 1.4: no schedule but a warm-up. The weights
 * that are trained are an interpolation; the good ones are the average, which evaluation enters (`enterEvaluation`).
 *
 * @param options.betas Default [0.9, 0.999]; the first is the interpolation's and above 0.
 * @param options.eps Default 1e-8.
 * @throws `config-invalid` for a setting out of range.
 *
 * @example
 * ```ts
 * import { constant, scheduleFreeAdamw } from "tunesmith/training";
 * const optimizer = scheduleFreeAdamw({ lr: 2.5e-3, schedule: constant({ warmupSteps: 10 }) });
 * const params = new Map([["w", Float32Array.of(1, -2)]]);
 * const state = optimizer.init(params);
 * optimizer.step(params, new Map([["w", Float32Array.of(0.5, 0.1)]]), state, { step: 1 });
 * const leave = optimizer.enterEvaluation?.(params, state);
 * leave?.();
 * ```
 */
export function scheduleFreeAdamw(
  options: ScheduleFreeOptions & {
    betas?: readonly [number, number] | undefined;
    eps?: number | undefined;
  },
): Optimizer {
  const { betas: [beta1, beta2] = [0.9, 0.999], eps = 1e-8 } = options;
  requireNumber("schedule-free: beta2", beta2, 0, 1);
  requireNumber("schedule-free: eps", eps, 0);
  return scheduleFree(
    "schedule-free-adamw",
    options,
    beta1,
    ["nu"],
    (grad, weights, state, name, decay, step) => {
      const nu = slotOf(state, "nu", name, grad.length);
      const correction = 1 - beta2 ** step;
      for (let i = 0; i < grad.length; i++) {
        const g = grad[i] as number;
        nu[i] = (nu[i] as number) * beta2 + g * g * (1 - beta2);
        grad[i] = g / (Math.sqrt((nu[i] as number) / correction) + eps) + decay * (weights[i] as number);
      }
    },
  );
}

/**
 * Schedule-free SGD (arXiv 2405.15682), the numbers of `SGDScheduleFree` 1.4; see `scheduleFreeAdamw`.
 *
 * @param options.momentum The interpolation's, above 0. Default 0.9.
 */
export function scheduleFreeSgd(options: ScheduleFreeOptions & { momentum?: number | undefined }): Optimizer {
  const { momentum = 0.9 } = options;
  return scheduleFree("schedule-free-sgd", options, momentum, [], (grad, weights, _state, _name, decay) => {
    for (let i = 0; i < grad.length; i++) grad[i] = (grad[i] as number) + decay * (weights[i] as number);
  });
}

type Direction = (
  grad: Float32Array,
  weights: Float32Array,
  state: OptimizerState,
  name: string,
  decay: number,
  step: number,
) => void;

function scheduleFree(
  name: string,
  options: ScheduleFreeOptions,
  beta: number,
  slots: readonly string[],
  direct: Direction,
): Optimizer {
  const { power = 0, lrPower = 2, schedule = constant() } = options;
  requireNumber(`${name}: interpolation`, beta, Number.MIN_VALUE, 1);
  requireNumber(`${name}: power`, power, 0);
  requireNumber(`${name}: lrPower`, lrPower, 0);
  const rates = ratesOf(name, options);
  return fromStep(name, options, {
    init(params) {
      const state = createState(params, slots, { largest: 0, total: 0 });
      return { ...state, slots: { ...state.slots, z: copyParams(params) } };
    },
    step(params, grads, state, { step }) {
      // The average's weights follow the optimiser's own learning rate: a factor per group cancels out.
      const largest = Math.max(scalarOfState(state, "largest"), options.lr * schedule(step - 1));
      const weight = step ** power * largest ** lrPower;
      const total = scalarOfState(state, "total") + weight;
      Object.assign(state.scalars, { largest, total });
      const share = total > 0 ? weight / total : 0;
      for (const [key, update] of grads) {
        const y = parameterOf(params, key, update.length);
        const z = slotOf(state, "z", key, update.length);
        direct(update, y, state, key, rates.weightDecay(key), step);
        const lr = rates.lr(key, step);
        const ofY = lr * (beta * (1 - share) - 1);
        for (let i = 0; i < y.length; i++) {
          const before = z[i] as number;
          const u = update[i] as number;
          y[i] = (y[i] as number) + share * (before - (y[i] as number)) + ofY * u;
          z[i] = before - lr * u;
        }
      }
    },
    enterEvaluation: (params, state) => swapIn(params, averages(params, state, beta)),
  });
}

/** x, out of y = beta x + (1 - beta) z. */
function averages(params: Params, state: OptimizerState, beta: number): Params {
  return new Map(
    [...params].map(([name, y]) => {
      const z = slotOf(state, "z", name, y.length);
      return [name, y.map((value, i) => value + (1 - 1 / beta) * ((z[i] as number) - value))] as const;
    }),
  );
}
