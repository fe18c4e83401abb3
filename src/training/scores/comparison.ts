import { TunesmithError } from "../../errors/index.js";
import { bootstrapInterval } from "../../runtime/linalg/index.js";
import { rng, type StreamKey } from "../../runtime/random/index.js";
import { nonEmpty, paired, sum } from "./check.js";

export interface ComparisonOptions<T> {
  /** Score of some examples. Default: their mean. */
  readonly statistic?: (items: readonly T[]) => number;
  /** Default 10,000. */
  readonly resamples?: number;
  /** Default 0.95. */
  readonly confidence?: number;
  /** Same seed, same figures. Default 0. */
  readonly seed?: StreamKey;
}

/** Two runs over the same examples. */
export interface Comparison {
  readonly a: number;
  readonly b: number;
  /** b − a */
  readonly difference: number;
  /** Two-sided. */
  readonly pValue: number;
  readonly resamples: number;
}

export interface BootstrapComparison extends Comparison {
  /** Percentile interval of the difference. */
  readonly low: number;
  readonly high: number;
  /** Share of resamples in which b is above a, ties counting half. */
  readonly shareBetter: number;
}

export interface PermutationComparison extends Comparison {
  /** Whether every permutation was tried. */
  readonly exact: boolean;
}

const meanOf = <T>(items: readonly T[]): number =>
  sum(items as readonly unknown[] as readonly number[]) / items.length;

function settings<T>({
  statistic = meanOf,
  resamples = 10_000,
  confidence = 0.95,
  seed = 0,
}: ComparisonOptions<T>) {
  if (!Number.isInteger(resamples) || resamples < 1 || !(confidence > 0 && confidence < 1)) {
    throw new TunesmithError("config-invalid", `${resamples} resamples at a confidence of ${confidence}`, {
      fix: "give at least 1 resample and a confidence between 0 and 1",
    });
  }
  return { statistic, resamples, confidence, seed };
}

/**
 * Paired bootstrap of two runs over the same examples (Koehn 2004): examples are drawn with replacement, the same for
 * both. The p value is the share of differences as far from their mean as the observed one is from 0 (Riezler and
 * Maxwell 2005), as in sacrebleu.
 *
 * @param a per-example values of the first run: numbers, or whatever `statistic` takes
 * @param b those of the second, in the same order
 * @throws `data-empty`; `data-invalid` for different lengths; `config-invalid` for options out of range.
 * @example
 * ```ts
 * import { pairedBootstrap } from "tunesmith/training";
 * const { difference, low, high, pValue } = pairedBootstrap([1, 0, 1, 0], [1, 1, 1, 0], { seed: 1 });
 * ```
 */
export function pairedBootstrap<T = number>(
  a: readonly T[],
  b: readonly T[],
  options: ComparisonOptions<T> = {},
): BootstrapComparison {
  const n = paired("paired bootstrap", a, b);
  const { statistic, resamples, confidence, seed } = settings(options);
  const [scoreA, scoreB] = [statistic(a), statistic(b)];
  const difference = scoreB - scoreA;
  const random = rng(seed, "pairedBootstrap");
  const differences = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    const drawn = Array.from({ length: n }, () => random.int(0, n));
    differences[r] = statistic(drawn.map((at) => b[at] as T)) - statistic(drawn.map((at) => a[at] as T));
  }
  const centre = sum(differences) / resamples;
  const far = differences.filter((d) => atLeast(Math.abs(d - centre), Math.abs(difference))).length;
  differences.sort();
  const better = differences.filter((d) => d > 0).length + differences.filter((d) => d === 0).length / 2;
  return {
    a: scoreA,
    b: scoreB,
    difference,
    low: quantile(differences, (1 - confidence) / 2),
    high: quantile(differences, (1 + confidence) / 2),
    pValue: (far + 1) / (resamples + 1),
    shareBetter: better / resamples,
    resamples,
  };
}

/**
 * Paired permutation test (approximate randomisation, Noreen 1989): the runs' values are swapped example by example at
 * random. With few examples all `2^n` ways are tried, and the p value is exact. Parameters and errors as
 * `pairedBootstrap`.
 *
 * @example
 * ```ts
 * import { pairedPermutationTest } from "tunesmith/training";
 * const { pValue } = pairedPermutationTest([0.1, 0.4, 0.3], [0.2, 0.6, 0.5]);
 * ```
 */
export function pairedPermutationTest<T = number>(
  a: readonly T[],
  b: readonly T[],
  options: ComparisonOptions<T> = {},
): PermutationComparison {
  const n = paired("paired permutation test", a, b);
  const { statistic, resamples, seed } = settings(options);
  const exact = 2 ** n <= resamples;
  const runs = exact ? 2 ** n : resamples;
  const random = rng(seed, "pairedPermutationTest");
  const [scoreA, scoreB] = [statistic(a), statistic(b)];
  const difference = scoreB - scoreA;
  let far = 0;
  for (let r = 0; r < runs; r++) {
    const swapped = a.map((_, at) => (exact ? Math.floor(r / 2 ** at) % 2 === 1 : random.int(0, 2) === 1));
    const left = statistic(a.map((item, at) => (swapped[at] ? (b[at] as T) : item)));
    const right = statistic(b.map((item, at) => (swapped[at] ? (a[at] as T) : item)));
    if (atLeast(Math.abs(right - left), Math.abs(difference))) far++;
  }
  const pValue = exact ? far / runs : (far + 1) / (runs + 1);
  return { a: scoreA, b: scoreB, difference, pValue, resamples: runs, exact };
}

/** Equal up to rounding counts, or the order of additions would decide. */
const atLeast = (value: number, bound: number): boolean => value >= bound - 1e-12 * Math.max(1, bound);

function quantile(sorted: Float64Array, p: number): number {
  const at = p * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below] as number;
  return low + (at - below) * ((sorted[below + 1] ?? low) - low);
}

/**
 * Percentile bootstrap interval of any score over examples; `bootstrapInterval` with items in place of numbers.
 *
 * @throws as `pairedBootstrap`
 * @example
 * ```ts
 * import { accuracy, confidenceInterval } from "tunesmith/training";
 * const items = [["a", "a"], ["b", "a"], ["b", "b"]] as const;
 * const { estimate, low, high } = confidenceInterval(items, {
 *   statistic: (sample) => accuracy(sample.map(([x]) => x), sample.map(([, y]) => y)),
 * });
 * ```
 */
export function confidenceInterval<T = number>(items: readonly T[], options: ComparisonOptions<T> = {}) {
  nonEmpty("confidence interval", items);
  const { statistic, resamples, confidence, seed } = settings(options);
  const positions = items.map((_, at) => at);
  return bootstrapInterval(positions, {
    statistic: (sample) => statistic(Array.from(sample, (at) => items[at] as T)),
    resamples,
    confidence,
    seed,
  });
}
