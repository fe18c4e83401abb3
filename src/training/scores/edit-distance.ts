import { invalid, paired, sum } from "./check.js";
import { words } from "./ngrams.js";

/** Fewest insertions, deletions and substitutions that turn one list into the other (Levenshtein). */
export function editDistance<T>(from: readonly T[], to: readonly T[]): number {
  let row = Array.from({ length: to.length + 1 }, (_, at) => at);
  for (const [index, item] of from.entries()) {
    const next = [index + 1];
    for (let at = 1; at <= to.length; at++) {
      const substituted = (row[at - 1] as number) + (item === to[at - 1] ? 0 : 1);
      next.push(Math.min(substituted, (row[at] as number) + 1, (next[at - 1] as number) + 1));
    }
    row = next;
  }
  return row.at(-1) as number;
}

/** Edits of one text, and the length of its reference. */
export interface ErrorCounts {
  readonly edits: number;
  readonly length: number;
}

const UNITS = { word: words, character: (text: string) => Array.from(text.trim()) } as const;

/** Edits of one text against its reference, in words or characters. */
export function errorCounts(prediction: string, reference: string, unit: keyof typeof UNITS): ErrorCounts {
  const known = UNITS[unit](reference);
  return { edits: editDistance(known, UNITS[unit](prediction)), length: known.length };
}

/** Edits per unit of the references. Throws `data-invalid` when those are empty. */
export function errorRateOf(items: readonly ErrorCounts[]): number {
  const length = sum(items.map((item) => item.length));
  if (length === 0) invalid("error rate", "all references are empty", "pass references with text");
  return sum(items.map(({ edits }) => edits)) / length;
}

function errorRate(
  predictions: readonly string[],
  references: readonly string[],
  unit: keyof typeof UNITS,
): number {
  paired("error rate", references, predictions);
  return errorRateOf(predictions.map((text, at) => errorCounts(text, references[at] as string, unit)));
}

/**
 * Word error rate: edits per word of the references, 0 and up, over the corpus as in jiwer. Case and punctuation
 * count.
 *
 * @throws `data-empty` without examples; `data-invalid` for lists of different length or references without words.
 * @example
 * ```ts
 * import { wordErrorRate } from "tunesmith/training";
 * wordErrorRate(["the cat sat"], ["the cat is here"]); // 0.5
 * ```
 */
export const wordErrorRate = (predictions: readonly string[], references: readonly string[]): number =>
  errorRate(predictions, references, "word");

/** Character error rate: edits per character of the references, spaces included, ends trimmed. Throws as `wordErrorRate`. */
export const characterErrorRate = (predictions: readonly string[], references: readonly string[]): number =>
  errorRate(predictions, references, "character");
