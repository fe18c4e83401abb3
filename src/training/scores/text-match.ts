import { invalid, mean, nonEmpty, paired } from "./check.js";
import { pythonRegExp } from "./python-regexp.js";

export interface ExactMatchOptions {
  /** Regular expressions (Python's spelling) whose matches are removed from both sides first. */
  readonly regexesToIgnore?: readonly string[];
  readonly ignoreCase?: boolean;
  /** ASCII punctuation. */
  readonly ignorePunctuation?: boolean;
  /** ASCII digits. */
  readonly ignoreNumbers?: boolean;
}

const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** Whether each prediction equals its reference after what is ignored: 1 or 0. */
export function exactMatches(
  predictions: readonly string[],
  references: readonly string[],
  options: ExactMatchOptions = {},
): number[] {
  paired("exact match", references, predictions);
  const removed = (options.regexesToIgnore ?? []).map((pattern) => pythonRegExp(pattern, "g"));
  const clean = (text: string): string => {
    let out = removed.reduce((left, pattern) => left.replace(pattern, ""), text);
    if (options.ignoreCase) out = out.toLowerCase();
    if (options.ignorePunctuation) out = out.replace(PUNCTUATION, "");
    return options.ignoreNumbers ? out.replace(/[0-9]/g, "") : out;
  };
  return predictions.map((text, at) => (clean(text) === clean(references[at] as string) ? 1 : 0));
}

/**
 * Share of predictions that equal their reference, 0 to 1, as `evaluate`'s exact_match.
 *
 * @throws `data-empty` without examples; `data-invalid` for lists of different length; `config-invalid` for a bad
 *   regular expression.
 * @example
 * ```ts
 * import { exactMatch } from "tunesmith/training";
 * exactMatch(["Paris."], ["paris"], { ignoreCase: true, ignorePunctuation: true }); // 1
 * ```
 */
export const exactMatch = (
  predictions: readonly string[],
  references: readonly string[],
  options: ExactMatchOptions = {},
): number => mean(exactMatches(predictions, references, options));

/** Lower case, without punctuation and articles, single spaces: how SQuAD compares answers. */
export const squadNormalize = (text: string): string =>
  text
    .toLowerCase()
    .replace(PUNCTUATION, "")
    .replace(/\b(a|an|the)\b/g, " ")
    .split(/\s+/)
    .filter((word) => word !== "")
    .join(" ");

/** F1 over the words of one answer against one reference. Without words on one side only equality counts. */
export function squadF1Of(prediction: string, reference: string): number {
  const words = (text: string) =>
    squadNormalize(text)
      .split(" ")
      .filter((word) => word !== "");
  const [guessed, expected] = [words(prediction), words(reference)];
  if (guessed.length === 0 || expected.length === 0) return guessed.length === expected.length ? 1 : 0;
  const left = new Map<string, number>();
  for (const word of expected) left.set(word, (left.get(word) ?? 0) + 1);
  let common = 0;
  for (const word of guessed) {
    const count = left.get(word) ?? 0;
    if (count > 0) common++;
    left.set(word, count - 1);
  }
  return (2 * common) / (guessed.length + expected.length);
}

/** Best of all references of each example. Throws `data-invalid` for an example without any. */
export function bestOf(
  score: string,
  predictions: readonly string[],
  references: readonly (string | readonly string[])[],
  one: (prediction: string, reference: string) => number,
): number[] {
  paired(score, references, predictions);
  return predictions.map((prediction, at) => {
    const known = referencesOf(score, references[at] as string | readonly string[]);
    return Math.max(...known.map((reference) => one(prediction, reference)));
  });
}

/** The references of one example as a list. */
export function referencesOf(score: string, given: string | readonly string[]): readonly string[] {
  if (typeof given === "string") return [given];
  if (given.length === 0) invalid(score, "an example has no reference", "pass at least one, or leave it out");
  return given;
}

/**
 * SQuAD's scores, 0 to 100: the mean over examples of the best reference, answers normalised by `squadNormalize`.
 *
 * @param references one answer, or several acceptable ones, for each prediction
 * @throws as `exactMatch`
 * @example
 * ```ts
 * import { squad } from "tunesmith/training";
 * const { exactMatch, f1 } = squad(["the cat sat"], [["a cat", "cat sat"]]);
 * ```
 */
export function squad(
  predictions: readonly string[],
  references: readonly (string | readonly string[])[],
): { readonly exactMatch: number; readonly f1: number } {
  nonEmpty("SQuAD", references);
  const equal = (a: string, b: string) => (squadNormalize(a) === squadNormalize(b) ? 1 : 0);
  return {
    exactMatch: 100 * mean(bestOf("SQuAD", predictions, references, equal)),
    f1: 100 * mean(bestOf("SQuAD", predictions, references, squadF1Of)),
  };
}
