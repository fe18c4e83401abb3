import { TunesmithError } from "../../errors/index.js";
import { rng, type StreamKey } from "../random/index.js";

/** Options of `bootstrapInterval`. */
export interface BootstrapOptions {
  /** What to estimate; default the mean. */
  readonly statistic?: (sample: Float64Array) => number;
  /** Number of resamples; default 2,000. */
  readonly resamples?: number;
  /** Default 0.95. */
  readonly confidence?: number;
  /** Default 0. */
  readonly seed?: StreamKey;
}

/** A percentile interval around an estimate. */
export interface BootstrapInterval {
  readonly estimate: number;
  readonly low: number;
  readonly high: number;
}

/**
 * Percentile bootstrap confidence interval (Efron 1979): the statistic of samples drawn with replacement. For a
 * paired comparison pass the differences.
 *
 * @param values one observation each
 * @throws `data-empty` without values; `config-invalid` for options out of range.
 * @example
 * ```ts
 * import { bootstrapInterval } from "tunesmith/runtime";
 * const { estimate, low, high } = bootstrapInterval([0.71, 0.69, 0.74, 0.7], { seed: 1 });
 * ```
 */
export function bootstrapInterval(
  values: ArrayLike<number>,
  options: BootstrapOptions = {},
): BootstrapInterval {
  const { statistic = mean, resamples = 2000, confidence = 0.95, seed = 0 } = options;
  const n = values.length;
  if (n === 0)
    throw new TunesmithError("data-empty", "bootstrapInterval: no values", {
      fix: "pass at least one value",
    });
  if (!Number.isInteger(resamples) || resamples < 1)
    invalid(`resamples is ${resamples}, expected a positive integer`);
  if (!(confidence > 0 && confidence < 1))
    invalid(`confidence is ${confidence}, expected a number between 0 and 1`);
  const random = rng(seed, "bootstrapInterval");
  const sample = new Float64Array(n);
  const statistics = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    for (let i = 0; i < n; i++) sample[i] = values[random.int(0, n)] as number;
    statistics[r] = statistic(sample);
  }
  statistics.sort();
  return {
    estimate: statistic(Float64Array.from(values)),
    low: quantile(statistics, (1 - confidence) / 2),
    high: quantile(statistics, (1 + confidence) / 2),
  };
}

function mean(sample: Float64Array): number {
  let sum = 0;
  for (const value of sample) sum += value;
  return sum / sample.length;
}

/** Linear interpolation between the neighbouring order statistics. */
function quantile(sorted: Float64Array, p: number): number {
  const at = p * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below] as number;
  return low + (at - below) * ((sorted[below + 1] ?? low) - low);
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `bootstrapInterval: ${problem}`, { fix: "correct the option" });
}
