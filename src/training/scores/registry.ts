import { TunesmithError } from "../../errors/index.js";
import { bleuCounts, bleuFromCounts } from "./bleu.js";
import {
  bitsPerByte,
  brierScore,
  expectedCalibrationError,
  negativeLogLikelihood,
  perplexity,
} from "./calibration.js";
import { mean } from "./check.js";
import { chrfCounts, chrfFromCounts } from "./chrf.js";
import {
  accuracy,
  balancedAccuracy,
  cohenKappa,
  type Label,
  matthewsCorrelation,
  precisionRecallF1,
  rocAuc,
} from "./classification.js";
import { type ErrorCounts, errorCounts, errorRateOf } from "./edit-distance.js";
import { type ExampleKind, type ExampleOf, readExamples } from "./examples.js";
import * as regression from "./regression.js";
import { type RetrievalScores, scoreQuery } from "./retrieval.js";
import { rougeL, rougeN } from "./rouge.js";
import { type SpanReport, spanScores } from "./spans.js";
import { bestOf, referencesOf, squadF1Of, squadNormalize } from "./text-match.js";

/** A score by name. `statistic` of the `prepare`d examples is the score, of all or of any sample of them. */
export interface Score {
  readonly name: string;
  readonly summary: string;
  readonly needs: ExampleKind;
  /** As text, for example `0 to 1`. */
  readonly range: string;
  readonly better: "higher" | "lower";
  /** Whose figures it gives. */
  readonly reference: string;
  /** What of each example the score depends on; throws `data-invalid` for examples of another kind. */
  prepare(examples: readonly unknown[], where?: string): unknown[];
  statistic(items: readonly unknown[]): number;
}

type Description = Pick<Score, "name" | "summary" | "range" | "better" | "reference">;

function score<K extends ExampleKind, I>(
  needs: K,
  description: Description,
  prepare: (example: ExampleOf<K>) => I,
  statistic: (items: readonly I[]) => number,
): Score {
  return {
    ...description,
    needs,
    prepare: (examples, where) => readExamples(needs, examples, where).map(prepare),
    statistic: (items) => statistic(items as readonly I[]),
  };
}

const row = (
  name: string,
  summary: string,
  range: string,
  better: "higher" | "lower",
  reference: string,
): Description => ({ name, summary, range, better, reference });
const same = <T>(example: T): T => example;

type Labels = ExampleOf<"labels">;
const labelScore = (
  description: Description,
  compute: (expected: Label[], predicted: Label[]) => number,
): Score =>
  score("labels", description, same<Labels>, (items) =>
    compute(
      items.map(({ expected }) => expected),
      items.map(({ predicted }) => predicted),
    ),
  );

const SKLEARN = "scikit-learn";
const labelScores: readonly Score[] = [
  labelScore(row("accuracy", "share of right answers", "0 to 1", "higher", SKLEARN), accuracy),
  labelScore(
    row("balanced_accuracy", "mean recall of the classes", "0 to 1", "higher", SKLEARN),
    balancedAccuracy,
  ),
  ...(["micro", "macro", "weighted"] as const).flatMap((kind) =>
    (["precision", "recall", "f1"] as const).map((part) =>
      labelScore(
        row(
          `${part}_${kind}`,
          `${part === "f1" ? "F1" : part}, ${kind} average`,
          "0 to 1",
          "higher",
          SKLEARN,
        ),
        (expected, predicted) => precisionRecallF1(expected, predicted)[kind][part],
      ),
    ),
  ),
  labelScore(
    row("mcc", "Matthews correlation coefficient", "−1 to 1", "higher", SKLEARN),
    matthewsCorrelation,
  ),
  labelScore(row("kappa", "Cohen's kappa", "−1 to 1", "higher", SKLEARN), cohenKappa),
];

type Probabilities = ExampleOf<"probabilities">;
const confidenceOf = ({ probabilities }: Probabilities) => Math.max(...probabilities);
const isRight = (example: Probabilities) =>
  example.probabilities.indexOf(confidenceOf(example)) === example.expected;
const probabilityScore = (
  description: Description,
  compute: (expected: number[], probabilities: number[][]) => number,
): Score =>
  score("probabilities", description, same<Probabilities>, (items) =>
    compute(
      items.map(({ expected }) => expected),
      items.map(({ probabilities }) => probabilities),
    ),
  );
const calibrated = (by: "width" | "mass") => (items: readonly Probabilities[]) =>
  expectedCalibrationError(items.map(confidenceOf), items.map(isRight), { by });

const probabilityScores: readonly Score[] = [
  probabilityScore(
    row("roc_auc", "area under the ROC curve, two classes", "0 to 1", "higher", SKLEARN),
    areaUnderRoc,
  ),
  score(
    "probabilities",
    row("ece", "expected calibration error, 15 bins of equal width", "0 to 1", "lower", "Guo et al. 2017"),
    same<Probabilities>,
    calibrated("width"),
  ),
  score(
    "probabilities",
    row("ece_adaptive", "the same with bins of equal size", "0 to 1", "lower", "Nixon et al. 2019"),
    same<Probabilities>,
    calibrated("mass"),
  ),
  probabilityScore(
    row("brier", "squared distance, summed over classes", "0 to 2", "lower", "lm-eval"),
    brierScore,
  ),
  probabilityScore(
    row("nll", "mean negative log-likelihood, nats", "0 and up", "lower", SKLEARN),
    negativeLogLikelihood,
  ),
];

function areaUnderRoc(expected: number[], probabilities: number[][]): number {
  const classes = probabilities.find((of) => of.length !== 2);
  if (classes) {
    throw new TunesmithError("data-invalid", `roc_auc needs two classes; there are ${classes.length}`, {
      fix: "use another metric, such as f1_macro",
    });
  }
  return rocAuc(
    expected,
    probabilities.map(([, positive]) => positive as number),
  );
}

type Text = ExampleOf<"text">;
const bestText =
  (name: string, one: (prediction: string, reference: string) => number) =>
  ({ prediction, references }: Text): number =>
    bestOf(name, [prediction], [references], one)[0] as number;
const percent = (items: readonly number[]) => 100 * mean(items);
const equal = (a: string, b: string) => (a === b ? 1 : 0);
const errors = (unit: "word" | "character") => (example: Text) => {
  const [reference = "", ...more] = referencesOf("error rate", example.references);
  if (more.length === 0) return errorCounts(example.prediction, reference, unit);
  throw new TunesmithError("data-invalid", "error rates take one reference for each example", {
    fix: "give one, or use another metric",
  });
};
const ROUGE = "rouge_score, no stemmer";

const textScores: readonly Score[] = [
  score(
    "text",
    row("exact_match", "share of answers equal to a reference", "0 to 1", "higher", "evaluate"),
    bestText("exact match", equal),
    mean,
  ),
  score(
    "text",
    row("squad_em", "the same without case, punctuation, articles", "0 to 100", "higher", "SQuAD's script"),
    bestText("SQuAD", (a, b) => equal(squadNormalize(a), squadNormalize(b))),
    percent,
  ),
  score(
    "text",
    row("squad_f1", "F1 over the words of an answer", "0 to 100", "higher", "SQuAD's script"),
    bestText("SQuAD", squadF1Of),
    percent,
  ),
  score(
    "text",
    row("bleu", "4-gram precision, 13a tokens, exponential smoothing", "0 to 100", "higher", "sacrebleu"),
    ({ prediction, references }) => bleuCounts(prediction, references),
    (items) => bleuFromCounts(items).score,
  ),
  ...[0, 2].map((wordOrder) =>
    score(
      "text",
      wordOrder === 0
        ? row("chrf", "F2 over character 1- to 6-grams", "0 to 100", "higher", "sacrebleu")
        : row("chrf++", "the same with words and word pairs", "0 to 100", "higher", "sacrebleu"),
      ({ prediction, references }) => chrfCounts(prediction, references, { wordOrder }),
      (items) => chrfFromCounts(items),
    ),
  ),
  ...[1, 2].map((n) =>
    score(
      "text",
      row(`rouge${n}`, `F1 over ${n === 1 ? "words" : "word pairs"}`, "0 to 1", "higher", ROUGE),
      bestText("ROUGE", (a, b) => rougeN(a, b, n)),
      mean,
    ),
  ),
  score(
    "text",
    row("rougeL", "F1 of the longest common subsequence", "0 to 1", "higher", ROUGE),
    bestText("ROUGE", rougeL),
    mean,
  ),
  ...(["word", "character"] as const).map((unit) =>
    score<"text", ErrorCounts>(
      "text",
      row(
        unit === "word" ? "wer" : "cer",
        `edits per ${unit} of the reference`,
        "0 and up",
        "lower",
        "jiwer",
      ),
      errors(unit),
      errorRateOf,
    ),
  ),
];

type Tags = ExampleOf<"tags">;
const tagScore = (name: string, summary: string, pick: (report: SpanReport) => number): Score =>
  score("tags", row(name, summary, "0 to 1", "higher", "seqeval"), same<Tags>, (items) =>
    pick(
      spanScores(
        items.map(({ expected }) => expected),
        items.map(({ predicted }) => predicted),
      ),
    ),
  );

const tagScores: readonly Score[] = [
  tagScore("seqeval_precision", "share of predicted spans that are right", ({ micro }) => micro.precision),
  tagScore("seqeval_recall", "share of spans that are found", ({ micro }) => micro.recall),
  tagScore("seqeval_f1", "F1 over spans", ({ micro }) => micro.f1),
  tagScore("seqeval_f1_macro", "the same, mean over types", ({ macro }) => macro.f1),
  tagScore("tag_accuracy", "share of right tags", (report) => report.accuracy),
];

const RANKINGS: Readonly<Record<keyof RetrievalScores, string>> = {
  ndcg: "discounted gain over the best possible",
  recall: "share of relevant documents that are found",
  precision: "share of found documents that are relevant",
  mrr: "one over the rank of the first relevant document",
  map: "mean of the precision at each relevant document",
};
const rankingScore = (key: keyof RetrievalScores, k?: number): Score =>
  score(
    "ranking",
    row(`${key}@${k ?? "k"}`, RANKINGS[key], "0 to 1", "higher", "trec_eval"),
    (query) => scoreQuery(query, k)[key],
    mean,
  );
const rankingKeys = Object.keys(RANKINGS) as (keyof RetrievalScores)[];

type Numbers = ExampleOf<"numbers">;
const numberScore = (
  description: Description,
  compute: (expected: number[], predicted: number[]) => number,
): Score =>
  score("numbers", description, same<Numbers>, (items) =>
    compute(
      items.map(({ expected }) => expected),
      items.map(({ predicted }) => predicted),
    ),
  );

const numberScores: readonly Score[] = [
  numberScore(row("mae", "mean absolute error", "0 and up", "lower", SKLEARN), regression.meanAbsoluteError),
  numberScore(row("mse", "mean squared error", "0 and up", "lower", SKLEARN), regression.meanSquaredError),
  numberScore(row("rmse", "its root", "0 and up", "lower", SKLEARN), regression.rootMeanSquaredError),
  numberScore(
    row("r2", "explained share of the variance", "up to 1", "higher", SKLEARN),
    regression.rSquared,
  ),
  numberScore(
    row("smape", "symmetric percentage error", "0 to 200", "lower", "M4"),
    regression.symmetricMape,
  ),
  numberScore(row("pearson", "linear correlation", "−1 to 1", "higher", "scipy"), regression.pearson),
  numberScore(row("spearman", "rank correlation", "−1 to 1", "higher", "scipy"), regression.spearman),
  numberScore(row("kendall", "rank correlation, τ-b", "−1 to 1", "higher", "scipy"), regression.kendall),
  score(
    "series",
    row(
      "mase",
      "error over that of the naive forecast, mean over series",
      "0 and up",
      "lower",
      "Hyndman and Koehler 2006",
    ),
    ({ expected, predicted, history }) => regression.meanAbsoluteScaledError(expected, predicted, history),
    mean,
  ),
];

type Likelihood = ExampleOf<"likelihood">;
const perUnit = (name: string, summary: string, unit: "tokens" | "words" | "bytes"): Score =>
  score("likelihood", row(name, summary, "1 and up", "lower", "lm-eval"), same<Likelihood>, (items) =>
    perplexity(
      items.map(({ logLikelihood }) => logLikelihood),
      items.map((item) => item[unit]),
    ),
  );

const likelihoodScores: readonly Score[] = [
  perUnit("perplexity", "per token", "tokens"),
  perUnit("word_perplexity", "per word between white space", "words"),
  perUnit("byte_perplexity", "per UTF-8 byte", "bytes"),
  score(
    "likelihood",
    row("bits_per_byte", "bits per UTF-8 byte", "0 and up", "lower", "lm-eval"),
    same<Likelihood>,
    (items) =>
      bitsPerByte(
        items.map(({ logLikelihood }) => logLikelihood),
        items.map(({ bytes }) => bytes),
      ),
  ),
];

/** Every score that has a name; those of rankings stand for any depth: `ndcg@10`. */
export const scoreRegistry: readonly Score[] = [
  ...labelScores,
  ...probabilityScores,
  ...textScores,
  ...tagScores,
  ...rankingKeys.map((key) => rankingScore(key)),
  ...numberScores,
  ...likelihoodScores,
];

/**
 * The score of a name.
 *
 * @throws `config-invalid` for an unknown name, with those there are.
 * @example
 * ```ts
 * import { scoreNamed } from "tunesmith/training";
 * const bleu = scoreNamed("bleu");
 * const value = bleu.statistic(bleu.prepare([{ prediction: "a b", references: "a b c" }]));
 * ```
 */
export function scoreNamed(name: string): Score {
  const [, key, depth] = /^(\w+)@(\d+)$/.exec(name) ?? [];
  const ranking = rankingKeys.find((known) => known === key);
  if (ranking && Number(depth) > 0) return rankingScore(ranking, Number(depth));
  const found = scoreRegistry.find((entry) => entry.name === name && !name.endsWith("@k"));
  if (found) return found;
  throw new TunesmithError("config-invalid", `no metric '${name}'`, {
    fix: `metrics: ${scoreRegistry.map((entry) => entry.name).join(", ")}`,
  });
}
