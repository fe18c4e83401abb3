import { mean } from "./check.js";
import { ngrams, overlap, sizeOf } from "./ngrams.js";
import { bestOf } from "./text-match.js";

/** F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1. */
export interface Rouge {
  readonly rouge1: number;
  readonly rouge2: number;
  readonly rougeL: number;
}

/** Lower-case runs of ASCII letters and digits, without stemming. */
export const rougeTokens = (text: string): string[] =>
  text
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter((word) => word !== "");

const f1 = (common: number, a: number, b: number): number => (common === 0 ? 0 : (2 * common) / (a + b));

/** ROUGE-N F1 of one text against one reference. */
export function rougeN(prediction: string, reference: string, n: number): number {
  const [a, b] = [ngrams(rougeTokens(prediction), n), ngrams(rougeTokens(reference), n)];
  return f1(overlap(a, b), sizeOf(a), sizeOf(b));
}

/** ROUGE-L F1 of one text against one reference: by the longest common subsequence of words. */
export function rougeL(prediction: string, reference: string): number {
  const [a, b] = [rougeTokens(prediction), rougeTokens(reference)];
  let row = new Array<number>(b.length + 1).fill(0);
  for (const word of a) {
    const next = [0];
    for (let at = 1; at <= b.length; at++) {
      const same = word === b[at - 1];
      next.push(same ? (row[at - 1] as number) + 1 : Math.max(row[at] as number, next[at - 1] as number));
    }
    row = next;
  }
  return f1(row.at(-1) as number, a.length, b.length);
}

/**
 * ROUGE (Lin 2004): mean F1 over examples, of the best reference, as the `rouge_score` package without its stemmer.
 *
 * @param references one text, or several, for each prediction
 * @throws as `bleu`
 * @example
 * ```ts
 * import { rouge } from "tunesmith/training";
 * const { rouge1, rouge2, rougeL } = rouge(["the cat sat"], ["the cat sat down"]);
 * ```
 */
export function rouge(
  predictions: readonly string[],
  references: readonly (string | readonly string[])[],
): Rouge {
  const of = (one: (prediction: string, reference: string) => number) =>
    mean(bestOf("ROUGE", predictions, references, one));
  return {
    rouge1: of((a, b) => rougeN(a, b, 1)),
    rouge2: of((a, b) => rougeN(a, b, 2)),
    rougeL: of(rougeL),
  };
}
