import { TunesmithError } from "../../errors/index.js";
import { BYTE_TO_CHAR } from "../../models/tokenizer/index.js";
import { type PairEntry, PairQueue } from "./queue.js";
import { countWords, mergeInWord, type Word } from "./words.js";

export interface TrainBpeOptions {
  /** Tokens in all: special tokens, the 256 bytes and the merges. A small text may give fewer. */
  readonly vocabSize: number;
  /** A pair rarer than this is not merged. Default 2. */
  readonly minFrequency?: number;
  /** They get the first ids. Default `["<|endoftext|>"]`. */
  readonly specialTokens?: readonly string[];
}

/** The `tokenizer.json` that `trainBpe` makes. */
export interface BpeTokenizerJson {
  readonly version: "1.0";
  readonly added_tokens: readonly { readonly id: number; readonly content: string }[];
  readonly model: {
    readonly type: "BPE";
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (readonly [string, string])[];
  };
  readonly [part: string]: unknown;
}

/**
 * Trains a byte-level BPE tokenizer (arXiv 1508.07909; words cut by the GPT-2 pattern, no prefix space) and returns
 * it as a Hugging Face `tokenizer.json` object. The merges equal those of the Python `tokenizers` trainer: the most
 * frequent pair first, among equals the one with the lowest ids. Memory is that of the distinct words.
 *
 * Throws `config-invalid` when `vocabSize` has no room for the bytes and special tokens, `data-empty` when the texts
 * hold nothing.
 *
 * @example
 * ```ts
 * import { trainBpe } from "tunesmith/data";
 * const json = trainBpe(["the cat sat on the mat, the cat sat"], { vocabSize: 270 });
 * console.log(json.model.merges.length);
 * ```
 */
export function trainBpe(texts: Iterable<string>, options: TrainBpeOptions): BpeTokenizerJson {
  const specialTokens = [...new Set(options.specialTokens ?? ["<|endoftext|>"])];
  const smallest = specialTokens.length + 256;
  if (!Number.isInteger(options.vocabSize) || options.vocabSize < smallest) {
    throw new TunesmithError("config-invalid", `vocabSize ${options.vocabSize} is too small`, {
      fix: `use at least ${smallest}: ${specialTokens.length} special tokens and 256 bytes`,
    });
  }
  const tokens = [...specialTokens, ...BYTE_TO_CHAR.toSorted()];
  const words = toWords(countWords(texts), tokens);
  if (words.length === 0) {
    throw new TunesmithError("data-empty", "the texts to train the tokenizer on hold nothing", {
      fix: "give at least one text that is not empty",
    });
  }
  const merges = findMerges(words, tokens, options.vocabSize, options.minFrequency ?? 2);
  return tokenizerJson(tokens, specialTokens, merges);
}

function toWords(counts: Map<string, number>, tokens: readonly string[]): Word[] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const byteIds = BYTE_TO_CHAR.map((char) => ids.get(char) as number);
  const encoder = new TextEncoder();
  return Array.from(counts, ([word, count]) => ({
    symbols: Array.from(encoder.encode(word), (byte) => byteIds[byte] as number),
    count,
  }));
}

/** Ids stay below this, so that two of them make one exact key. */
const PAIR_BASE = 2 ** 26;
const pairKey = (left: number, right: number) => left * PAIR_BASE + right;

/** Appends the merged tokens to `tokens` and returns the merges, best first. */
function findMerges(
  words: readonly Word[],
  tokens: string[],
  vocabSize: number,
  minFrequency: number,
): [string, string][] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const counts = new Map<number, number>();
  const queue = new PairQueue();
  for (const entry of initialPairs(words, counts)) queue.push(entry);
  const merges: [string, string][] = [];
  while (tokens.length < vocabSize) {
    const top = queue.pop();
    if (!top) break;
    const current = counts.get(pairKey(top.left, top.right)) ?? 0;
    // Merges made since it was queued may have taken some of its places.
    if (top.count !== current) {
      top.count = current;
      queue.push(top);
      continue;
    }
    if (top.count < 1 || top.count < minFrequency) break;
    const parts: [string, string] = [tokens[top.left] as string, tokens[top.right] as string];
    const token = parts[0] + parts[1];
    const merged = ids.get(token) ?? tokens.push(token) - 1;
    ids.set(token, merged);
    merges.push(parts);
    for (const entry of applyMerge(words, top, merged, counts)) queue.push(entry);
  }
  return merges;
}

function initialPairs(words: readonly Word[], counts: Map<number, number>): Iterable<PairEntry> {
  const entries = new Map<number, PairEntry>();
  words.forEach((word, index) => {
    for (let at = 0; at + 1 < word.symbols.length; at++) {
      const left = word.symbols[at] as number;
      const right = word.symbols[at + 1] as number;
      see(entries, left, right, index);
      const key = pairKey(left, right);
      counts.set(key, (counts.get(key) ?? 0) + word.count);
    }
  });
  return withCounts(entries, counts);
}

/** Merges a pair in every word that has it and returns the pairs that came into being. */
function applyMerge(
  words: readonly Word[],
  pair: PairEntry,
  merged: number,
  counts: Map<number, number>,
): Iterable<PairEntry> {
  const created = new Map<number, PairEntry>();
  for (const index of pair.words) {
    const word = words[index] as Word;
    mergeInWord(word, pair.left, pair.right, merged, (left, right, by) => {
      const key = pairKey(left, right);
      counts.set(key, (counts.get(key) ?? 0) + by * word.count);
      if (by > 0) see(created, left, right, index);
    });
  }
  return withCounts(created, counts);
}

function see(entries: Map<number, PairEntry>, left: number, right: number, word: number): void {
  const key = pairKey(left, right);
  const entry = entries.get(key);
  if (entry) entry.words.add(word);
  else entries.set(key, { left, right, count: 0, words: new Set([word]) });
}

function* withCounts(
  entries: ReadonlyMap<number, PairEntry>,
  counts: ReadonlyMap<number, number>,
): Iterable<PairEntry> {
  for (const [key, entry] of entries) {
    entry.count = counts.get(key) ?? 0;
    if (entry.count > 0) yield entry;
  }
}

function tokenizerJson(
  tokens: readonly string[],
  specialTokens: readonly string[],
  merges: [string, string][],
): BpeTokenizerJson {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: { ...byteLevel, trim_offsets: false },
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  } as BpeTokenizerJson;
}
