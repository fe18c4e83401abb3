import { GPT2_PATTERN } from "../../models/tokenizer/index.js";

/** A distinct word as symbol ids; merging shortens it in place. */
export interface Word {
  symbols: number[];
  readonly count: number;
}

/** Counts the words of the texts, cut by the GPT-2 pattern. */
export function countWords(texts: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(GPT2_PATTERN)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return counts;
}

/**
 * Replaces each neighbouring `left`, `right` in a word by `merged` and reports how often each pair appeared (+1) or
 * vanished (-1) next to the replacements.
 */
export function mergeInWord(
  word: Word,
  left: number,
  right: number,
  merged: number,
  changed: (left: number, right: number, by: 1 | -1) => void,
): void {
  const old = word.symbols;
  const kept: number[] = [];
  for (let at = 0; at < old.length; at++) {
    const symbol = old[at] as number;
    if (symbol !== left || old[at + 1] !== right) {
      kept.push(symbol);
      continue;
    }
    const before = kept.at(-1);
    if (before !== undefined) {
      changed(before, left, -1);
      changed(before, merged, 1);
    }
    kept.push(merged);
    at++;
    const after = old[at + 1];
    if (after !== undefined) {
      changed(right, after, -1);
      changed(merged, after, 1);
    }
  }
  word.symbols = kept;
}
