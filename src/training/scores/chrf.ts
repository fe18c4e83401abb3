import { nonEmpty, paired, sum } from "./check.js";
import { ngrams, overlap, sizeOf, words } from "./ngrams.js";
import { referencesOf } from "./text-match.js";

export interface ChrfOptions {
  /** Longest character n-gram; default 6. */
  readonly characterOrder?: number;
  /** Longest word n-gram: 0 is chrF, 2 is chrF++. Default 0. */
  readonly wordOrder?: number;
  /** How much more recall counts than precision; default 2. */
  readonly beta?: number;
  readonly lowercase?: boolean;
}

/** Of each order: n-grams of the prediction, of the reference, and common ones. */
export type ChrfCounts = readonly (readonly [number, number, number])[];

const PUNCTUATION = new Set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~");

/** Punctuation at one end of a word becomes a word. */
const separated = (text: string): string[] =>
  words(text).flatMap((word) => {
    const chars = Array.from(word);
    if (chars.length === 1) return [word];
    if (PUNCTUATION.has(chars.at(-1) as string)) return [chars.slice(0, -1).join(""), chars.at(-1) as string];
    return PUNCTUATION.has(chars[0] as string) ? [chars[0] as string, chars.slice(1).join("")] : [word];
  });

function allNgrams(text: string, { characterOrder = 6, wordOrder = 0, lowercase = false }: ChrfOptions) {
  const line = lowercase ? text.toLowerCase() : text;
  const chars = Array.from(words(line).join(""));
  const parts = wordOrder > 0 ? separated(line) : [];
  return [
    ...Array.from({ length: characterOrder }, (_, at) => ngrams(chars, at + 1)),
    ...Array.from({ length: wordOrder }, (_, at) => ngrams(parts, at + 1)),
  ];
}

/** Matches of one example with the reference it is closest to. */
export function chrfCounts(
  prediction: string,
  references: string | readonly string[],
  options: ChrfOptions = {},
): ChrfCounts {
  const guessed = allNgrams(prediction, options);
  const candidates = referencesOf("chrF", references).map((reference) => {
    const known = allNgrams(reference, options);
    return guessed.map((counts, at) => {
      const other = known[at] ?? new Map<string, number>();
      const size = sizeOf(other);
      // An order that the reference is too short for does not count against the prediction.
      return [size === 0 ? 0 : sizeOf(counts), size, overlap(counts, other)] as const;
    });
  });
  const scores = candidates.map((counts) => fScore(counts, options));
  return candidates[scores.indexOf(Math.max(...scores))] as ChrfCounts;
}

/** chrF of added counts, 0 to 100. */
export function chrfFromCounts(items: readonly ChrfCounts[], options: ChrfOptions = {}): number {
  nonEmpty("chrF", items);
  const orders = items[0] as ChrfCounts;
  const of = (order: number, part: 0 | 1 | 2) => sum(items.map((item) => item[order]?.[part] ?? 0));
  return fScore(
    orders.map((_, order) => [of(order, 0), of(order, 1), of(order, 2)] as const),
    options,
  );
}

function fScore(counts: ChrfCounts, { beta = 2 }: ChrfOptions): number {
  const used = counts.filter(([guessed, existing]) => guessed > 0 && existing > 0);
  if (used.length === 0) return 0;
  const precision = sum(used.map(([guessed, , common]) => common / guessed)) / used.length;
  const recall = sum(used.map(([, existing, common]) => common / existing)) / used.length;
  if (precision + recall === 0) return 0;
  const factor = beta ** 2;
  return (100 * (1 + factor) * precision * recall) / (factor * precision + recall);
}

/**
 * Corpus chrF (Popović 2015), 0 to 100, or with `wordOrder: 2` chrF++ (Popović 2017), as sacrebleu computes them.
 *
 * @param references one text, or several, for each prediction
 * @throws as `bleu`
 * @example
 * ```ts
 * import { chrf } from "tunesmith/training";
 * const plusPlus = chrf(["The cat sat."], ["A cat sat."], { wordOrder: 2 });
 * ```
 */
export function chrf(
  predictions: readonly string[],
  references: readonly (string | readonly string[])[],
  options: ChrfOptions = {},
): number {
  paired("chrF", references, predictions);
  const items = predictions.map((text, at) =>
    chrfCounts(text, references[at] as string | readonly string[], options),
  );
  return chrfFromCounts(items, options);
}
