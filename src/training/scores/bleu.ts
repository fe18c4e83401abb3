import { nonEmpty, paired, sum } from "./check.js";
import { ngrams, overlap, words } from "./ngrams.js";
import { referencesOf } from "./text-match.js";

export interface BleuOptions {
  /** `13a` is mteval-13a's (the default of WMT and sacrebleu); `none` splits at white space. Default `13a`. */
  readonly tokenize?: "13a" | "none";
  readonly lowercase?: boolean;
  /** Average only over the orders that the texts have; for single sentences. Default false. */
  readonly effectiveOrder?: boolean;
}

export interface Bleu {
  /** 0 to 100 */
  readonly score: number;
  /** Of 1-grams to 4-grams, 0 to 100. */
  readonly precisions: readonly number[];
  readonly brevityPenalty: number;
  /** Tokens of the predictions, and of the closest references. */
  readonly predictedLength: number;
  readonly referenceLength: number;
}

/** What one example adds to a corpus' BLEU; sums of these give the score of any selection. */
export interface BleuCounts {
  readonly correct: readonly number[];
  readonly total: readonly number[];
  readonly predictedLength: number;
  readonly referenceLength: number;
}

const ORDER = 4;

/** Tokens as mteval-v13a.pl makes them. */
export function tokenize13a(text: string): string[] {
  let line = text.replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  if (line.includes("&")) {
    line = line
      .replaceAll("&quot;", '"')
      .replaceAll("&amp;", "&")
      .replaceAll("&lt;", "<")
      .replaceAll("&gt;", ">");
  }
  return words(
    ` ${line} `
      .replace(/([{-~[-` -&(-+:-@/])/g, " $1 ")
      .replace(/([^0-9])([.,])/g, "$1 $2 ")
      .replace(/([.,])([^0-9])/g, " $1 $2")
      .replace(/([0-9])(-)/g, "$1 $2 "),
  );
}

/** Clipped n-gram matches of one example. */
export function bleuCounts(
  prediction: string,
  references: string | readonly string[],
  options: BleuOptions = {},
): BleuCounts {
  const split = (text: string) => {
    const line = (options.lowercase ? text.toLowerCase() : text).trimEnd();
    return options.tokenize === "none" ? words(line) : tokenize13a(line);
  };
  const guessed = split(prediction);
  const known = referencesOf("BLEU", references).map(split);
  const distance = (length: number) => Math.abs(length - guessed.length);
  const closest = known
    .map((tokens) => tokens.length)
    .reduce((best, length) => {
      const [a, b] = [distance(length), distance(best)];
      return a < b || (a === b && length < best) ? length : best;
    });
  const orders = Array.from({ length: ORDER }, (_, at) => at + 1);
  return {
    correct: orders.map((n) => {
      const most = new Map<string, number>();
      for (const tokens of known)
        for (const [key, count] of ngrams(tokens, n)) most.set(key, Math.max(count, most.get(key) ?? 0));
      return overlap(ngrams(guessed, n), most);
    }),
    total: orders.map((n) => Math.max(0, guessed.length - n + 1)),
    predictedLength: guessed.length,
    referenceLength: closest,
  };
}

/** BLEU of added counts, with exponential smoothing of orders without a match. */
export function bleuFromCounts(items: readonly BleuCounts[], options: BleuOptions = {}): Bleu {
  nonEmpty("BLEU", items);
  const of = (pick: (item: BleuCounts) => number) => sum(items.map(pick));
  const [predictedLength, referenceLength] = [
    of((item) => item.predictedLength),
    of((item) => item.referenceLength),
  ];
  const orders = Array.from({ length: ORDER }, (_, at) => at);
  const correct = orders.map((n) => of((item) => item.correct[n] as number));
  const total = orders.map((n) => of((item) => item.total[n] as number));
  const short = predictedLength < referenceLength;
  const brevityPenalty = !short
    ? 1
    : predictedLength > 0
      ? Math.exp(1 - referenceLength / predictedLength)
      : 0;
  const precisions = new Array<number>(ORDER).fill(0);
  const lengths = { brevityPenalty, predictedLength, referenceLength };
  if (!correct.some((count) => count > 0)) return { score: 0, precisions, ...lengths };
  let smooth = 1;
  let used = ORDER;
  for (const n of orders) {
    if (total[n] === 0) break;
    if (options.effectiveOrder) used = n + 1;
    if (correct[n] === 0) smooth *= 2;
    precisions[n] = (100 * (correct[n] || 1 / smooth)) / (total[n] as number);
  }
  const logs = precisions.slice(0, used).map((p) => (p === 0 ? -9999999999 : Math.log(p)));
  return { score: brevityPenalty * Math.exp(sum(logs) / used), precisions, ...lengths };
}

/**
 * Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it: 13a tokens, up to 4-grams, exponential smoothing,
 * closest reference length.
 *
 * @param references one text, or several, for each prediction
 * @throws `data-empty` without examples; `data-invalid` for lists of different length or an example without reference.
 * @example
 * ```ts
 * import { bleu } from "tunesmith/training";
 * const { score } = bleu(["The cat sat on the mat."], [["The cat is on the mat.", "A cat sat on the mat."]]);
 * ```
 */
export function bleu(
  predictions: readonly string[],
  references: readonly (string | readonly string[])[],
  options: BleuOptions = {},
): Bleu {
  paired("BLEU", references, predictions);
  const items = predictions.map((text, at) =>
    bleuCounts(text, references[at] as string | readonly string[], options),
  );
  return bleuFromCounts(items, options);
}
