import { TunesmithError } from "../errors/index.js";
import { fit } from "./fit.js";
import type { FitOptions } from "./fit-types.js";
import type { Objective } from "./objective.js";
import { copyParams, type Optimizer, restoreParams, type Schedule } from "./optim/index.js";

export interface LearningRateFinderOptions
  extends Pick<FitOptions, "accumulate" | "seed" | "session" | "recompute" | "signal"> {
  /** Makes the optimiser from a learning rate and its schedule. */
  readonly optimizer: (lr: number, schedule: Schedule) => Optimizer;
  /** Default 1e-7. */
  readonly lowest?: number;
  /** Default 1. */
  readonly highest?: number;
  /** Updates on the way from the lowest to the highest. Default 100. */
  readonly steps?: number;
  readonly onStep?: (point: LearningRatePoint) => void;
}

export interface LearningRatePoint {
  readonly learningRate: number;
  readonly loss: number;
  /** The loss with those before it averaged in. */
  readonly smoothed: number;
}

export interface LearningRateRange {
  /** Where the smoothed loss falls fastest; undefined when it never falls. */
  readonly suggestion: number | undefined;
  /** The largest learning rate before the smoothed loss rises for good. */
  readonly largest: number | undefined;
  readonly points: readonly LearningRatePoint[];
}

/** Share of the past in the smoothed loss; the loss, in parts of the best, at which the search ends. */
const [KEPT, DIVERGED] = [0.9, 4];

/**
 * The learning rate range test (arXiv 1506.01186): training for a few steps while the learning rate grows from the lowest
 * to the highest, evenly on a logarithmic scale. It ends early when the loss is four times the best one. The parameters
 * are put back as they were.
 *
 * @throws `config-invalid` for a range that is none, `cancelled`, and what `fit` throws.
 *
 * @example
 * ```ts
 * import { createOptimizer, findLearningRate, type Objective } from "tunesmith/training";
 * export async function find(objective: Objective) {
 *   const optimizer = (lr: number, schedule: (step: number) => number) => createOptimizer("adamw", { lr }, { schedule });
 *   return (await findLearningRate(objective, { optimizer })).suggestion;
 * }
 * ```
 */
export async function findLearningRate(
  objective: Objective,
  options: LearningRateFinderOptions,
): Promise<LearningRateRange> {
  const { lowest = 1e-7, highest = 1, steps = 100, optimizer, onStep, signal, ...rest } = options;
  if (!(lowest > 0 && highest > lowest && Number.isSafeInteger(steps) && steps >= 10)) {
    throw new TunesmithError(
      "config-invalid",
      `learning rates from ${lowest} to ${highest} in ${steps} steps`,
      {
        fix: "give a lowest above 0, a highest above it, and at least 10 steps",
      },
    );
  }
  const trained = [...objective.model.parameters.values()].filter(({ trainable }) => trainable);
  const params = new Map(trained.map(({ name, tensor }) => [name, tensor.data as Float32Array] as const));
  const before = copyParams(params);
  const points: LearningRatePoint[] = [];
  const enough = new AbortController();
  const stop = signal ? AbortSignal.any([signal, enough.signal]) : enough.signal;
  const growth = (step: number) => (highest / lowest) ** (step / (steps - 1));
  let [average, best] = [0, Number.POSITIVE_INFINITY];
  try {
    // Validation would only cost time; its objective is the same without.
    await fit(
      { ...objective, validation: undefined },
      {
        ...rest,
        steps,
        signal: stop,
        // The first learning rates are meant to be too small.
        guardZeroUpdates: false,
        optimizer: optimizer(lowest, growth),
        onEvent(event) {
          if (event.type !== "step") return;
          const { loss, learningRate, step } = event;
          average = KEPT * average + (1 - KEPT) * loss;
          const smoothed = average / (1 - KEPT ** step);
          best = Math.min(best, smoothed);
          const point = { learningRate, loss, smoothed };
          points.push(point);
          onStep?.(point);
          if (step >= 10 && smoothed > DIVERGED * best) enough.abort();
        },
      },
    );
  } catch (error) {
    const code = error instanceof TunesmithError ? error.code : undefined;
    // Learning rates that are too high end in numbers that are not finite: that is an answer too.
    if (!(code === "cancelled" && !signal?.aborted) && code !== "loss-not-finite") throw error;
  } finally {
    restoreParams(params, before);
  }
  return { ...readRange(points), points };
}

/** Steps on either side over which the fall of the loss is measured: single batches say little. */
const REACH = 5;

function readRange(points: readonly LearningRatePoint[]): Omit<LearningRateRange, "points"> {
  const smoothed = (at: number) => points[at]?.smoothed ?? Number.NaN;
  let [steepest, slope] = [-1, 0];
  for (let at = 2 * REACH; at + REACH < points.length; at++) {
    const fall = smoothed(at + REACH) - smoothed(at - REACH);
    if (fall < slope) [steepest, slope] = [at, fall];
  }
  if (steepest < 0) return { suggestion: undefined, largest: undefined };
  let lowest = steepest;
  for (let at = steepest; at < points.length; at++) if (smoothed(at) < smoothed(lowest)) lowest = at;
  return { suggestion: points[steepest]?.learningRate, largest: points[lowest]?.learningRate };
}
