import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { tokenize13a } from "./bleu.js";
import * as scores from "./index.js";
import { pythonRegExp } from "./python-regexp.js";
import type { Scheme } from "./schemes.js";

const fixture = JSON.parse(readFileSync(new URL("./scores.fixture.json", import.meta.url), "utf8"));

const numbered = <T>(list: readonly T[]): [number, T][] => list.map((entry, at) => [at, entry]);

const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof TunesmithError) return error.code;
    throw error;
  }
  return "none";
};
const close = (actual: number, expected: number) => expect(actual).toBeCloseTo(expected, 10);
const closeAll = (actual: object, expected: Record<string, number>, keys: readonly string[]) => {
  for (const key of keys) {
    const value = (actual as Record<string, number>)[key] as number;
    expect(Math.abs(value - (expected[key] as number)), key).toBeLessThan(1e-10);
  }
};
const PRF = ["precision", "recall", "f1"];

describe("classification, as scikit-learn", () => {
  test.each(numbered(fixture.classification))("case %i", (_, given) => {
    const c = given as typeof fixture;
    const matrix = scores.confusionMatrix(c.expected, c.predicted);
    expect(matrix).toEqual({ labels: c.labels, counts: c.counts });
    close(scores.accuracy(c.expected, c.predicted), c.accuracy);
    close(scores.balancedAccuracy(c.expected, c.predicted), c.balancedAccuracy);
    close(scores.matthewsCorrelation(c.expected, c.predicted), c.mcc);
    const kappa = scores.cohenKappa(c.expected, c.predicted);
    if (c.kappa === null) expect(kappa).toBeNaN();
    else close(kappa, c.kappa);
    const report = scores.precisionRecallF1(c.expected, c.predicted);
    for (const kind of ["micro", "macro", "weighted"] as const) closeAll(report[kind], c[kind], PRF);
    expect(
      report.classes.map(({ precision, recall, f1, support }) => [precision, recall, f1, support]),
    ).toEqual(c.classes.map((row: number[]) => row.map((x) => expect.closeTo(x, 10))));
  });

  test("ROC-AUC with ties; one class is refused", () => {
    for (const c of fixture.auc) close(scores.rocAuc(c.expected, c.scores), c.auc);
    expect(codeOf(() => scores.rocAuc([1, 1], [0.2, 0.3]))).toBe("data-invalid");
    expect(codeOf(() => scores.rocAuc([1, 0], [0.2, Number.NaN]))).toBe("data-invalid");
  });

  test("empty, unequal and unknown are errors that say so", () => {
    expect(codeOf(() => scores.accuracy([], []))).toBe("data-empty");
    expect(codeOf(() => scores.accuracy(["a"], ["a", "b"]))).toBe("data-invalid");
    expect(codeOf(() => scores.confusionMatrix(["a"], ["b"], { labels: ["a"] }))).toBe("data-invalid");
  });

  test("a class that nobody has counts in the macro average", () => {
    expect(scores.precisionRecallF1(["a", "a"], ["a", "a"], { labels: ["a", "b"] }).macro.f1).toBe(0.5);
  });
});

describe("text", () => {
  test("SQuAD", () => {
    const { predictions, references, exactMatch, f1 } = fixture.squad;
    const actual = scores.squad(predictions, references);
    close(actual.exactMatch, exactMatch);
    close(actual.f1, f1);
    expect(codeOf(() => scores.squad(["a"], [[]]))).toBe("data-invalid");
  });

  test("exact match ignores what it is told to", () => {
    expect(scores.exactMatch(["Paris 1."], ["paris 2"])).toBe(0);
    const options = { ignoreCase: true, ignorePunctuation: true, ignoreNumbers: true };
    expect(scores.exactMatch(["Paris 1."], ["paris 2"], options)).toBe(1);
    const regexesToIgnore = [",", "\\$", "(?s).*#### ", "\\.$"];
    expect(scores.exactMatch(["so\nit is #### $1,200."], ["1200"], { regexesToIgnore })).toBe(1);
  });

  test.each(numbered(fixture.translation))("BLEU and chrF %i, as sacrebleu", (_, given) => {
    const c = given as typeof fixture;
    const result = scores.bleu(c.predictions, c.references);
    close(result.score, c.bleu);
    expect(result.precisions).toEqual(c.precisions.map((p: number) => expect.closeTo(p, 10)));
    close(result.brevityPenalty, c.brevityPenalty);
    expect([result.predictedLength, result.referenceLength]).toEqual(c.lengths);
    close(scores.bleu(c.predictions, c.references, { lowercase: true }).score, c.bleuLower);
    close(scores.bleu(c.predictions, c.references, { tokenize: "none" }).score, c.bleuPlain);
    const sentences = c.predictions.map(
      (text: string, at: number) => scores.bleu([text], [c.references[at]], { effectiveOrder: true }).score,
    );
    expect(sentences).toEqual(c.sentences.map((x: number) => expect.closeTo(x, 10)));
    close(scores.chrf(c.predictions, c.references), c.chrf);
    close(scores.chrf(c.predictions, c.references, { wordOrder: 2 }), c.chrfPlusPlus);
    const characters = c.predictions.map((text: string, at: number) =>
      scores.chrf([text], [c.references[at]]),
    );
    expect(characters).toEqual(c.chrfSentences.map((x: number) => expect.closeTo(x, 10)));
  });

  test("13a keeps numbers together and takes punctuation apart", () => {
    expect(tokenize13a("1,200.50 (2-3) U.S.")).toEqual([
      "1,200.50",
      "(",
      "2",
      "-",
      "3",
      ")",
      "U",
      ".",
      "S",
      ".",
    ]);
  });

  test("ROUGE, as rouge_score", () => {
    const { predictions, references, rouge1, rouge2, rougeL } = fixture.rouge;
    closeAll(scores.rouge(predictions, references), { rouge1, rouge2, rougeL }, [
      "rouge1",
      "rouge2",
      "rougeL",
    ]);
  });

  test("word and character error rate, as jiwer", () => {
    const { predictions, references, wer, cer } = fixture.speech;
    close(scores.wordErrorRate(predictions, references), wer);
    close(scores.characterErrorRate(predictions, references), cer);
    expect(codeOf(() => scores.wordErrorRate(["a"], [" "]))).toBe("data-invalid");
  });
});

describe("spans, as seqeval", () => {
  test.each(numbered(fixture.spans))("case %i", (_, given) => {
    const c = given as typeof fixture;
    const options = c.scheme === null ? {} : { scheme: c.scheme as Scheme };
    const found = c.expected.map((tags: string[]) =>
      scores.spansOf(tags, options).map(({ type, start, end }) => [type, start, end]),
    );
    expect(found).toEqual(c.spans);
    const report = scores.spanScores(c.expected, c.predicted, options);
    for (const kind of ["micro", "macro", "weighted"] as const) closeAll(report[kind], c[kind], PRF);
    close(report.accuracy, c.accuracy);
  });

  test("tags of another scheme and sentences of other lengths are refused", () => {
    expect(codeOf(() => scores.spansOf(["S-LOC"], { scheme: "IOB2" }))).toBe("data-invalid");
    expect(codeOf(() => scores.spanScores([["O"]], [["O", "O"]]))).toBe("data-invalid");
  });
});

describe("retrieval, as trec_eval", () => {
  test.each(numbered(fixture.retrieval.scores))("case %i", (_, given) => {
    const c = given as Record<string, number>;
    const keys = ["ndcg", "recall", "precision", "mrr", "map"];
    closeAll(scores.retrievalScores(fixture.retrieval.queries, c.k), c, keys);
  });

  test("a query without relevant documents is 0; a document twice is refused", () => {
    expect(scores.scoreQuery({ ranked: ["a"], relevant: {} }).ndcg).toBe(0);
    expect(codeOf(() => scores.scoreQuery({ ranked: ["a", "a"], relevant: { a: 1 } }))).toBe("data-invalid");
    // Names that every object has are documents like others.
    expect(scores.scoreQuery({ ranked: ["constructor"], relevant: { a: 1 } }).recall).toBe(0);
  });
});

test("regression and correlation, as scikit-learn and scipy", () => {
  const { expected, predicted, history, tied, ...c } = fixture.regression;
  close(scores.meanAbsoluteError(expected, predicted), c.mae);
  close(scores.meanSquaredError(expected, predicted), c.mse);
  close(scores.rootMeanSquaredError(expected, predicted), c.rmse);
  close(scores.rSquared(expected, predicted), c.r2);
  close(scores.meanAbsoluteScaledError(expected, predicted, history), c.mase1);
  close(scores.meanAbsoluteScaledError(expected, predicted, history, 4), c.mase4);
  close(scores.symmetricMape(expected, predicted), c.smape);
  close(scores.pearson(expected, tied), c.pearson);
  close(scores.spearman(expected, tied), c.spearman);
  close(scores.kendall(expected, tied), c.kendall);
  expect(scores.pearson([1, 1], [1, 2])).toBeNaN();
  expect(scores.kendall([1, 1], [1, 2])).toBeNaN();
  expect(codeOf(() => scores.meanAbsoluteScaledError([1], [1], [2, 2, 2]))).toBe("data-invalid");
});

test("calibration", () => {
  const { probabilities, labels, ece10, ece7Mass, brier, nll } = fixture.calibration;
  const confidence = probabilities.map((row: number[]) => Math.max(...row));
  const correct = probabilities.map(
    (row: number[], at: number) => row.indexOf(Math.max(...row)) === labels[at],
  );
  close(scores.expectedCalibrationError(confidence, correct, { bins: 10 }), ece10);
  close(scores.expectedCalibrationError(confidence, correct, { bins: 7, by: "mass" }), ece7Mass);
  close(scores.brierScore(labels, probabilities), brier);
  close(scores.negativeLogLikelihood(labels, probabilities), nll);
  expect(codeOf(() => scores.expectedCalibrationError([1.2], [true]))).toBe("data-invalid");
  expect(codeOf(() => scores.brierScore([2], [[0.5, 0.5]]))).toBe("data-invalid");
});

test("perplexity and bits per byte of log-likelihoods", () => {
  close(scores.perplexity([-Math.log(8), -Math.log(2)], [1, 1]), 4);
  close(scores.bitsPerByte([-Math.log(8), -Math.log(2)], [3, 1]), 1);
  expect(codeOf(() => scores.perplexity([-1], [0]))).toBe("data-invalid");
});

describe("two runs", () => {
  const { a, b, pValue } = fixture.comparison;

  test("the exact permutation test gives scipy's p value; a random one comes close", () => {
    const exact = scores.pairedPermutationTest(a, b);
    expect(exact.exact).toBe(true);
    close(exact.pValue, pValue);
    const sampled = scores.pairedPermutationTest(a, b, { resamples: 1000, seed: 4 });
    expect(sampled.exact).toBe(false);
    expect(Math.abs(sampled.pValue - pValue)).toBeLessThan(0.05);
  });

  test("the bootstrap depends on the seed alone, and covers the difference", () => {
    const first = scores.pairedBootstrap(a, b, { seed: 7, resamples: 2000 });
    expect(scores.pairedBootstrap(a, b, { seed: 7, resamples: 2000 })).toEqual(first);
    expect(scores.pairedBootstrap(a, b, { seed: 8, resamples: 2000 }).low).not.toBe(first.low);
    expect(first.low).toBeLessThan(first.difference);
    expect(first.high).toBeGreaterThan(first.difference);
    // By the normal approximation: half the interval is 1.96 standard errors of the paired differences.
    const d = b.map((value: number, at: number) => value - a[at]);
    const centre = d.reduce((x: number, y: number) => x + y) / d.length;
    const variance = d.reduce((x: number, y: number) => x + (y - centre) ** 2, 0) / d.length;
    expect((first.high - first.low) / 2 / (1.96 * Math.sqrt(variance / d.length))).toBeCloseTo(1, 0);
  });

  test("equal runs do not differ", () => {
    const same = scores.pairedBootstrap(a, a, { resamples: 100 });
    expect(same).toMatchObject({ difference: 0, low: 0, high: 0, pValue: 1, shareBetter: 0.5 });
    expect(scores.pairedPermutationTest(a, a).pValue).toBe(1);
  });

  test("scores of the whole corpus are compared by their counts", () => {
    const { predictions, references } = fixture.translation[0];
    const worse = predictions.map((text: string) => text.split(" ").slice(1).join(" "));
    const counts = (texts: string[]) => texts.map((text, at) => scores.bleuCounts(text, references[at]));
    const result = scores.pairedBootstrap(counts(predictions), counts(worse), {
      statistic: (items) => scores.bleuFromCounts(items).score,
      resamples: 200,
    });
    close(result.a, fixture.translation[0].bleu);
    expect(result.difference).toBeLessThan(0);
  });

  test("bad options", () => {
    expect(codeOf(() => scores.pairedBootstrap(a, b, { resamples: 0 }))).toBe("config-invalid");
    expect(codeOf(() => scores.pairedBootstrap([], []))).toBe("data-empty");
    const interval = scores.confidenceInterval([1, 2, 3, 4], { resamples: 500 });
    expect(interval.estimate).toBe(2.5);
    expect(interval.low).toBeLessThan(2.5);
  });
});

test("Python's regular expressions", () => {
  const first = (pattern: string, text: string) => pythonRegExp(pattern).exec(text)?.[0];
  expect(first("#### (\\-?[0-9\\.\\,]+)", "so #### -1,200.5!")).toBe("#### -1,200.5");
  expect(first("(-?[$0-9.,]{2,})|(-?[0-9]+)", "cost $12.50")).toBe("$12.50");
  expect(first("(?i)(?P<x>a)(?P=x)$", "bAA\n")).toBe("AA");
  expect(first("[]a-]+", "x]-a")).toBe("]-a");
  expect(first("[^\\W\\d]+", "12é_b")).toBe("é_b");
  expect(first("{x}", "a{x}")).toBe("{x}");
  expect(first("\\A\\w+\\Z", "größe")).toBe("größe");
  expect(codeOf(() => pythonRegExp("(?x) a"))).toBe("config-invalid");
  expect(codeOf(() => pythonRegExp("("))).toBe("config-invalid");
});

describe("scores by name", () => {
  const examples: Record<scores.ExampleKind, unknown[]> = {
    labels: [
      { expected: "a", predicted: "a" },
      { expected: "b", predicted: "a" },
    ],
    probabilities: [
      { expected: 0, probabilities: [0.9, 0.1] },
      { expected: 1, probabilities: [0.4, 0.6] },
    ],
    text: [{ prediction: "the cat sat on it", references: "a cat sat on it" }],
    tags: [{ expected: ["B-X", "O"], predicted: ["B-X", "B-Y"] }],
    ranking: [{ ranked: ["a", "b"], relevant: { b: 1 } }],
    numbers: [
      { expected: 1, predicted: 2 },
      { expected: 3, predicted: 3 },
    ],
    series: [{ expected: [3], predicted: [5], history: [1, 2, 1] }],
    likelihood: [{ logLikelihood: -4, tokens: 2, words: 1, bytes: 4 }],
  };

  test.each(scores.scoreRegistry.map((entry) => [entry.name, entry] as const))("%s", (_, entry) => {
    const value = entry.statistic(entry.prepare(examples[entry.needs]));
    expect(Number.isFinite(value)).toBe(true);
    expect(codeOf(() => entry.prepare([{}]))).toBe("data-invalid");
    expect(codeOf(() => entry.prepare([]))).toBe("data-empty");
  });

  test("names are told apart, unknown ones refused", () => {
    const names = scores.scoreRegistry.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(scores.scoreNamed("mrr@1").statistic([0])).toBe(0);
    expect(codeOf(() => scores.scoreNamed("blue"))).toBe("config-invalid");
    expect(codeOf(() => scores.scoreNamed("ndcg@k"))).toBe("config-invalid");
    const reciprocal = scores.scoreNamed("mrr@2");
    expect(reciprocal.statistic(reciprocal.prepare(examples.ranking))).toBe(0.5);
    const share = scores.scoreNamed("f1_macro");
    expect(share.statistic(share.prepare(examples.labels))).toBeCloseTo(1 / 3);
  });
});
