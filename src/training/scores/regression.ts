import { invalid, mean, nonEmpty, paired, sum } from "./check.js";
import { averageRanks } from "./classification.js";

const differences = (score: string, expected: ArrayLike<number>, predicted: ArrayLike<number>): number[] => {
  paired(score, expected, predicted);
  return Array.from(expected, (value, at) => (predicted[at] as number) - value);
};

/** Mean absolute error. Throws `data-empty`, and `data-invalid` for lists of different length, as all scores here. */
export const meanAbsoluteError = (expected: ArrayLike<number>, predicted: ArrayLike<number>): number =>
  mean(differences("MAE", expected, predicted).map(Math.abs));

/** Mean squared error. */
export const meanSquaredError = (expected: ArrayLike<number>, predicted: ArrayLike<number>): number =>
  mean(differences("MSE", expected, predicted).map((d) => d * d));

/** Root of the mean squared error. */
export const rootMeanSquaredError = (expected: ArrayLike<number>, predicted: ArrayLike<number>): number =>
  Math.sqrt(meanSquaredError(expected, predicted));

/** Coefficient of determination, at most 1; for constant `expected` 1 if all is right and 0 otherwise, as scikit-learn. */
export function rSquared(expected: ArrayLike<number>, predicted: ArrayLike<number>): number {
  const errors = sum(differences("R²", expected, predicted).map((d) => d * d));
  const centre = mean(expected);
  const spread = sum(Array.from(expected, (value) => (value - centre) ** 2));
  if (spread === 0) return errors === 0 ? 1 : 0;
  return 1 - errors / spread;
}

/**
 * Mean absolute scaled error (Hyndman and Koehler 2006): 1 is as good as repeating the value one season ago.
 *
 * @param history the series before the forecast, which the error is scaled by; longer than `season`
 * @param season default 1
 * @throws `data-invalid` when the history is too short, or constant so that nothing can be scaled by it.
 * @example
 * ```ts
 * import { meanAbsoluteScaledError } from "tunesmith/training";
 * meanAbsoluteScaledError([14, 15], [13, 16], [10, 12, 11, 13]);
 * ```
 */
export function meanAbsoluteScaledError(
  expected: ArrayLike<number>,
  predicted: ArrayLike<number>,
  history: ArrayLike<number>,
  season = 1,
): number {
  const error = meanAbsoluteError(expected, predicted);
  if (!Number.isInteger(season) || season < 1 || history.length <= season) {
    invalid(
      "MASE",
      `${history.length} values of history for a season of ${season}`,
      "pass more than one season",
    );
  }
  const steps = Array.from(history).slice(season);
  const scale = mean(steps.map((value, at) => Math.abs(value - (history[at] as number))));
  if (scale === 0) invalid("MASE", "the history repeats itself exactly", "use MAE for it");
  return error / scale;
}

/** Symmetric mean absolute percentage error, 0 to 200, as in the M4 competition; 0 against 0 counts as right. */
export function symmetricMape(expected: ArrayLike<number>, predicted: ArrayLike<number>): number {
  const errors = differences("sMAPE", expected, predicted).map((d, at) => {
    const size = Math.abs(expected[at] as number) + Math.abs(predicted[at] as number);
    return size === 0 ? 0 : (200 * Math.abs(d)) / size;
  });
  return mean(errors);
}

/**
 * Pearson's correlation, −1 to 1; NaN when one side is constant.
 *
 * @throws `data-invalid` for fewer than two pairs.
 * @example
 * ```ts
 * import { pearson } from "tunesmith/training";
 * pearson([1, 2, 3], [2, 4, 7]);
 * ```
 */
export function pearson(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (paired("correlation", a, b) < 2) invalid("correlation", "one pair only", "pass at least two pairs");
  const [x, y] = [centred(a), centred(b)];
  const spread = Math.sqrt(sum(x.map((v) => v * v))) * Math.sqrt(sum(y.map((v) => v * v)));
  if (spread === 0) return Number.NaN;
  const value = sum(x.map((v, at) => v * (y[at] as number))) / spread;
  return Math.max(-1, Math.min(1, value));
}

function centred(values: ArrayLike<number>): number[] {
  nonEmpty("correlation", values);
  const centre = mean(values);
  return Array.from(values, (value) => value - centre);
}

/** Spearman's rank correlation, −1 to 1, ties by mean ranks; NaN when one side is constant. Throws as `pearson`. */
export const spearman = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  pearson(averageRanks(a), averageRanks(b));

/** Kendall's τ-b, −1 to 1, which allows for ties; NaN when one side is constant. Throws as `pearson`. */
export function kendall(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const n = paired("correlation", a, b);
  if (n < 2) invalid("correlation", "one pair only", "pass at least two pairs");
  let [score, left, right] = [0, 0, 0];
  for (let i = 1; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const x = Math.sign((a[i] as number) - (a[j] as number));
      const y = Math.sign((b[i] as number) - (b[j] as number));
      score += x * y;
      left += x * x;
      right += y * y;
    }
  }
  return left === 0 || right === 0 ? Number.NaN : score / Math.sqrt(left * right);
}
