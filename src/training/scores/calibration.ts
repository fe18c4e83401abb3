import { invalid, mean, nonEmpty, paired, sum } from "./check.js";

export interface CalibrationOptions {
  /** Default 15 (Guo et al. 2017). */
  readonly bins?: number;
  /** `width`: bins of equal width; `mass`: of equally many examples (adaptive). Default `width`. */
  readonly by?: "width" | "mass";
}

/** One bin of a reliability diagram. */
export interface CalibrationBin {
  readonly count: number;
  /** Means over the bin. */
  readonly confidence: number;
  readonly accuracy: number;
}

/** The bins of a reliability diagram, empty ones left out. Throws as `expectedCalibrationError`. */
export function calibrationBins(
  confidence: readonly number[],
  correct: readonly (boolean | number)[],
  options: CalibrationOptions = {},
): CalibrationBin[] {
  const n = paired("ECE", confidence, correct);
  const { bins = 15, by = "width" } = options;
  if (!Number.isInteger(bins) || bins < 1) invalid("ECE", `${bins} bins`, "give at least 1");
  const bad = confidence.find((p) => !(p >= 0 && p <= 1));
  if (bad !== undefined) invalid("ECE", `a confidence is ${bad}`, "pass probabilities");
  const order = Array.from({ length: n }, (_, at) => at);
  if (by === "mass") order.sort((a, b) => (confidence[a] as number) - (confidence[b] as number));
  const groups = Array.from({ length: bins }, (): number[] => []);
  order.forEach((example, at) => {
    // Bins are (low, high]; a confidence of 0 belongs to the first.
    const width = Math.max(0, Math.ceil((confidence[example] as number) * bins) - 1);
    groups[by === "width" ? width : massBin(at, n, bins)]?.push(example);
  });
  return groups
    .filter((group) => group.length > 0)
    .map((group) => ({
      count: group.length,
      confidence: mean(group.map((at) => confidence[at] as number)),
      accuracy: mean(group.map((at) => Number(correct[at]))),
    }));
}

/** As numpy.array_split: the first `n % bins` bins hold one more. */
function massBin(at: number, n: number, bins: number): number {
  const [size, larger] = [Math.floor(n / bins), n % bins];
  const border = larger * (size + 1);
  return at < border ? Math.floor(at / (size + 1)) : larger + Math.floor((at - border) / size);
}

/**
 * Expected calibration error, 0 to 1: how far confidence is from accuracy, by bins (Naeini et al. 2015; adaptive bins as
 * Nixon et al. 2019).
 *
 * @param confidence probability given to the predicted class
 * @param correct whether that class was right
 * @throws `data-empty`; `data-invalid` for lists of different length or a confidence outside 0 to 1.
 * @example
 * ```ts
 * import { expectedCalibrationError } from "tunesmith/training";
 * expectedCalibrationError([0.9, 0.8, 0.6], [true, true, false], { bins: 10 });
 * ```
 */
export function expectedCalibrationError(
  confidence: readonly number[],
  correct: readonly (boolean | number)[],
  options: CalibrationOptions = {},
): number {
  const bins = calibrationBins(confidence, correct, options);
  return sum(bins.map((bin) => bin.count * Math.abs(bin.accuracy - bin.confidence))) / confidence.length;
}

function checkProbabilities(
  score: string,
  expected: readonly number[],
  probabilities: readonly (readonly number[])[],
) {
  paired(score, expected, probabilities);
  probabilities.forEach((row, at) => {
    const label = expected[at] as number;
    if (!Number.isInteger(label) || label < 0 || label >= row.length) {
      invalid(
        score,
        `example ${at} is of class ${label}, and has ${row.length} probabilities`,
        "number classes from 0",
      );
    }
  });
}

/**
 * Brier score, 0 to 2: squared distance of the probabilities from the truth, summed over classes.
 *
 * @param expected classes, numbered from 0
 * @param probabilities `[examples][classes]`
 * @throws `data-empty`; `data-invalid` for lists of different length or a class without probability.
 */
export function brierScore(
  expected: readonly number[],
  probabilities: readonly (readonly number[])[],
): number {
  checkProbabilities("Brier score", expected, probabilities);
  const errors = probabilities.map((row, at) =>
    sum(row.map((p, c) => (p - (c === expected[at] ? 1 : 0)) ** 2)),
  );
  return mean(errors);
}

/** Mean negative log-likelihood of the right class, in nats; a probability of 0 counts as 2⁻⁵². Throws as `brierScore`. */
export function negativeLogLikelihood(
  expected: readonly number[],
  probabilities: readonly (readonly number[])[],
): number {
  checkProbabilities("NLL", expected, probabilities);
  return mean(
    probabilities.map((row, at) => {
      const p = row[expected[at] as number] as number;
      return -Math.log(Math.min(1, Math.max(Number.EPSILON, p)));
    }),
  );
}

/** exp of the mean negative log-likelihood per unit (token, word, byte). Throws `data-empty`, `data-invalid`. */
export function perplexity(logLikelihoods: readonly number[], units: readonly number[]): number {
  return Math.exp(-sum(logLikelihoods) / totalUnits("perplexity", logLikelihoods, units));
}

/** Bits per byte of text: the negative log-likelihood in bits over the UTF-8 bytes. Throws as `perplexity`. */
export function bitsPerByte(logLikelihoods: readonly number[], bytes: readonly number[]): number {
  return -sum(logLikelihoods) / Math.LN2 / totalUnits("bits per byte", logLikelihoods, bytes);
}

function totalUnits(score: string, logLikelihoods: readonly number[], units: readonly number[]): number {
  nonEmpty(score, logLikelihoods);
  paired(score, logLikelihoods, units);
  const total = sum(units);
  if (!(total > 0)) invalid(score, "the texts are empty", "pass texts with at least one unit");
  return total;
}
