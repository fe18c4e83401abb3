import { invalid, mean, paired, ratio, sum } from "./check.js";

/** A class. */
export type Label = string | number;

/** Counts of expected against predicted classes. */
export interface ConfusionMatrix {
  /** Classes in ascending order, or as given. */
  readonly labels: readonly Label[];
  /** `[expected][predicted]` */
  readonly counts: readonly (readonly number[])[];
}

export interface ClassificationOptions {
  /** All classes, also ones that no example has. Default: those that occur. */
  readonly labels?: readonly Label[];
}

/** Precision, recall and F1 of one class, or an average of them. */
export interface PrecisionRecallF1 {
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
}

export interface ClassScores extends PrecisionRecallF1 {
  readonly label: Label;
  /** Examples that are of this class. */
  readonly support: number;
}

export interface F1Report {
  readonly classes: readonly ClassScores[];
  /** Over all decisions together. */
  readonly micro: PrecisionRecallF1;
  /** Mean over classes. */
  readonly macro: PrecisionRecallF1;
  /** Mean over classes, weighted by support. */
  readonly weighted: PrecisionRecallF1;
}

/** Numbers by size, texts by code points, numbers first. */
function compareLabels(a: Label, b: Label): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  const [x, y] = [Array.from(String(a)), Array.from(String(b))];
  for (let at = 0; at < Math.min(x.length, y.length); at++) {
    const difference = (x[at]?.codePointAt(0) ?? 0) - (y[at]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return x.length - y.length;
}

/**
 * Counts expected against predicted classes.
 *
 * @throws `data-empty` without examples; `data-invalid` for lists of different length or a class outside `labels`.
 * @example
 * ```ts
 * import { confusionMatrix } from "tunesmith/training";
 * const { labels, counts } = confusionMatrix(["cat", "dog", "cat"], ["cat", "cat", "cat"]);
 * ```
 */
export function confusionMatrix(
  expected: readonly Label[],
  predicted: readonly Label[],
  options: ClassificationOptions = {},
): ConfusionMatrix {
  paired("confusion matrix", expected, predicted);
  const labels = options.labels ?? [...new Set([...expected, ...predicted])].sort(compareLabels);
  const index = new Map(labels.map((label, at) => [label, at]));
  const counts = labels.map(() => new Array<number>(labels.length).fill(0));
  const place = (label: Label): number =>
    index.get(label) ??
    invalid("confusion matrix", `'${label}' is not among the labels`, "add it to `labels`");
  expected.forEach((label, at) => {
    const row = counts[place(label)] as number[];
    const column = place(predicted[at] as Label);
    row[column] = (row[column] as number) + 1;
  });
  return { labels, counts };
}

/** Share of predictions that are right, 0 to 1. Throws as `confusionMatrix`. */
export function accuracy(expected: readonly Label[], predicted: readonly Label[]): number {
  const n = paired("accuracy", expected, predicted);
  return expected.filter((label, at) => label === predicted[at]).length / n;
}

/** Mean recall over the classes that occur among `expected`, 0 to 1. Throws as `confusionMatrix`. */
export function balancedAccuracy(expected: readonly Label[], predicted: readonly Label[]): number {
  const { classes } = precisionRecallF1(expected, predicted);
  return mean(classes.filter(({ support }) => support > 0).map(({ recall }) => recall));
}

/**
 * Precision, recall and F1 of each class with micro, macro and weighted averages, 0 to 1. What has no examples to divide
 * by counts 0, as in scikit-learn.
 *
 * @throws as `confusionMatrix`
 * @example
 * ```ts
 * import { precisionRecallF1 } from "tunesmith/training";
 * const { macro } = precisionRecallF1(["a", "b", "b"], ["a", "a", "b"]);
 * console.log(macro.f1);
 * ```
 */
export function precisionRecallF1(
  expected: readonly Label[],
  predicted: readonly Label[],
  options: ClassificationOptions = {},
): F1Report {
  const { labels, counts } = confusionMatrix(expected, predicted, options);
  const classes = labels.map((label, at) => {
    const support = sum(counts[at] as number[]);
    const guessed = sum(counts.map((row) => row[at] as number));
    return { label, support, ...fromCounts(counts[at]?.[at] as number, guessed, support) };
  });
  const right = sum(labels.map((_, at) => counts[at]?.[at] as number));
  return {
    classes,
    micro: fromCounts(right, expected.length, expected.length),
    macro: average(classes, () => 1),
    weighted: average(classes, ({ support }) => support),
  };
}

/** From the numbers of right, guessed and existing ones. */
export function fromCounts(right: number, guessed: number, existing: number): PrecisionRecallF1 {
  return {
    precision: ratio(right, guessed),
    recall: ratio(right, existing),
    f1: ratio(2 * right, guessed + existing),
  };
}

/** Weighted mean over classes. */
export function average<T extends PrecisionRecallF1>(
  classes: readonly T[],
  weight: (entry: T) => number,
): PrecisionRecallF1 {
  const total = sum(classes.map(weight));
  const of = (key: keyof PrecisionRecallF1) =>
    ratio(sum(classes.map((entry) => entry[key] * weight(entry))), total);
  return { precision: of("precision"), recall: of("recall"), f1: of("f1") };
}

/**
 * Matthews correlation coefficient, −1 to 1, for any number of classes (Gorodkin 2004); 0 when all expected or all
 * predicted classes are the same. Throws as `confusionMatrix`.
 */
export function matthewsCorrelation(expected: readonly Label[], predicted: readonly Label[]): number {
  const { counts } = confusionMatrix(expected, predicted);
  const n = expected.length;
  const actual = counts.map(sum);
  const guessed = counts.map((_, at) => sum(counts.map((row) => row[at] as number)));
  const right = sum(counts.map((row, at) => row[at] as number));
  const dot = (a: readonly number[], b: readonly number[]) => sum(a.map((x, at) => x * (b[at] as number)));
  const spread = Math.sqrt((n * n - dot(guessed, guessed)) * (n * n - dot(actual, actual)));
  return ratio(right * n - dot(actual, guessed), spread);
}

/** Cohen's kappa, −1 to 1: agreement beyond chance; NaN when chance alone explains all. Throws as `confusionMatrix`. */
export function cohenKappa(expected: readonly Label[], predicted: readonly Label[]): number {
  const { counts } = confusionMatrix(expected, predicted);
  const n = expected.length;
  const observed = sum(counts.map((row, at) => row[at] as number)) / n;
  const chance = sum(
    counts.map((row, at) => (sum(row) / n) * (sum(counts.map((other) => other[at] as number)) / n)),
  );
  return (observed - chance) / (1 - chance);
}

/**
 * Area under the ROC curve, 0 to 1: the chance that a positive scores above a negative, ties counting half.
 *
 * @param expected true or 1 for positives, false or 0 for negatives
 * @param scores any numbers; greater means more positive
 * @throws `data-invalid` when one of the two classes is absent; otherwise as `confusionMatrix`.
 * @example
 * ```ts
 * import { rocAuc } from "tunesmith/training";
 * rocAuc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]); // 0.75
 * ```
 */
export function rocAuc(expected: readonly (boolean | number)[], scores: readonly number[]): number {
  const n = paired("ROC-AUC", expected, scores);
  const ranks = averageRanks(scores);
  const positive = expected.map((value) => value === true || value === 1);
  const positives = positive.filter(Boolean).length;
  if (positives === 0 || positives === n) {
    invalid("ROC-AUC", `all ${n} examples are of one class`, "pass positive and negative examples");
  }
  const rankSum = sum(ranks.filter((_, at) => positive[at]));
  return (rankSum - (positives * (positives + 1)) / 2) / (positives * (n - positives));
}

/** Ranks from 1; equal values share the mean of theirs. Throws `data-invalid` for NaN, which has no place. */
export function averageRanks(values: ArrayLike<number>): number[] {
  const order = Array.from(values, (value, at) => ({ value, at }));
  if (order.some(({ value }) => Number.isNaN(value))) {
    invalid("ranks", "a value is NaN", "leave out examples without a score");
  }
  order.sort((a, b) => a.value - b.value);
  const ranks = new Array<number>(order.length).fill(0);
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && order[end]?.value === order[start]?.value) end++;
    for (let at = start; at < end; at++) ranks[order[at]?.at as number] = (start + 1 + end) / 2;
    start = end;
  }
  return ranks;
}
