/** How SentencePiece classifies a piece. */
export type PieceKind = "normal" | "unknown" | "control" | "user-defined" | "unused" | "byte";

export interface Piece {
  readonly text: string;
  readonly score: number;
  readonly kind: PieceKind;
}

/** A vocabulary of scored pieces, indexed by id, and how a text is cut into them. */
export interface PieceModel {
  readonly pieces: readonly Piece[];
  readonly algorithm: "bpe" | "unigram";
  readonly unkId: number | undefined;
}

/** Cuts an escaped text (spaces already written as the space symbol) into ids. */
export type Segmenter = (text: string) => number[];

/** Words in the cache; when it is full it is emptied. */
const CACHE_SIZE = 50_000;

/**
 * The segmenter of a piece model.
 *
 * - `bpe`: neighbouring pieces whose concatenation has the highest score are merged first, leftmost first
 *   (SentencePiece BPE and llama2.c).
 * - `unigram`: the cut with the highest sum of scores (arXiv 1804.10959).
 *
 * Characters without a piece become their bytes where all byte pieces exist, else the unknown token; unknown
 * neighbours share one, as in SentencePiece.
 *
 * @param space The character that stands for a space inside pieces.
 */
export function segmenter(model: PieceModel, space: string): Segmenter {
  const ids = new Map<string, number>();
  model.pieces.forEach((piece, id) => {
    if (piece.kind === "normal" && piece.text !== "" && !ids.has(piece.text)) ids.set(piece.text, id);
  });
  const cut = model.algorithm === "bpe" ? bpeCut(model, ids) : unigramCut(model, ids);
  const resolve = resolver(model);
  const words = wordsOf(model, space);
  const cache = new Map<string, number[]>();
  return (text) => {
    const result: number[] = [];
    for (const word of words(text)) {
      let found = cache.get(word);
      if (!found) {
        found = resolve(cut(word));
        if (cache.size >= CACHE_SIZE) cache.clear();
        if (word.length <= 64) cache.set(word, found);
      }
      for (const id of found) {
        if (id === model.unkId && result.at(-1) === id) continue;
        result.push(id);
      }
    }
    return result;
  };
}

/** A piece of a cut: an id, or the text that no piece covers. */
type Cut = (number | string)[];

/** Turns uncovered text into byte tokens, or into the unknown token. */
function resolver(model: PieceModel): (cut: Cut) => number[] {
  const bytes = byteIds(model.pieces);
  const encoder = new TextEncoder();
  return (cut) =>
    cut.flatMap((item) => {
      if (typeof item === "number") return item;
      if (bytes) return Array.from(encoder.encode(item), (byte) => bytes[byte] ?? -1);
      return model.unkId ?? [];
    });
}

/** Ids of `<0x00>` .. `<0xFF>` when the vocabulary holds them all. */
export function byteIds(pieces: readonly Piece[]): Int32Array | undefined {
  const ids = new Int32Array(256).fill(-1);
  pieces.forEach((piece, id) => {
    if (piece.kind === "byte") ids[Number.parseInt(piece.text.slice(3, 5), 16)] = id;
  });
  return ids.every((id) => id >= 0) ? ids : undefined;
}

/**
 * Cuts a text into words, each with its leading spaces, which is exact when no piece holds a space after another
 * character; else the whole text is one word.
 */
function wordsOf(model: PieceModel, space: string): (text: string) => Iterable<string> {
  const crosses = model.pieces.some((piece) => {
    if (piece.kind !== "normal") return false;
    const inner = piece.text.lastIndexOf(space);
    return inner > 0 && [...piece.text.slice(0, inner)].some((char) => char !== space);
  });
  if (crosses) return (text) => [text];
  const word = new RegExp(`${space}+[^${space}]*|[^${space}]+`, "gu");
  return (text) => text.match(word) ?? [];
}

function bpeCut(model: PieceModel, ids: Map<string, number>): (word: string) => Cut {
  const merges = new Map<number, number>();
  const size = model.pieces.length;
  const mergeOf = (left: number, right: number) => {
    const key = left * size + right;
    let merged = merges.get(key);
    if (merged === undefined) {
      merged = ids.get(`${model.pieces[left]?.text}${model.pieces[right]?.text}`) ?? -1;
      if (merges.size >= CACHE_SIZE * 4) merges.clear();
      merges.set(key, merged);
    }
    return merged;
  };
  const scoreOf = (id: number) => model.pieces[id]?.score ?? Number.NEGATIVE_INFINITY;
  return (word) => {
    const chars = [...word];
    const symbols = Int32Array.from(chars, (char) => ids.get(char) ?? -1);
    mergeByScore(symbols, mergeOf, scoreOf);
    const cut: Cut = [];
    symbols.forEach((id, index) => {
      if (id >= 0) cut.push(id);
      else if (id === -1) cut.push(chars[index] ?? "");
    });
    return cut;
  };
}

/** Marks a symbol that was merged into the one on its left. */
const GONE = -2;

/** Merges in place: a heap of candidate pairs, best score first, leftmost first among equals. */
function mergeByScore(
  symbols: Int32Array,
  mergeOf: (left: number, right: number) => number,
  scoreOf: (id: number) => number,
): void {
  const count = symbols.length;
  const next = Int32Array.from({ length: count }, (_, index) => index + 1);
  const previous = Int32Array.from({ length: count }, (_, index) => index - 1);
  const heap = new Heap();
  const consider = (left: number) => {
    const right = left < 0 ? count : (next[left] ?? count);
    if (right >= count) return;
    const a = symbols[left] ?? -1;
    const b = symbols[right] ?? -1;
    if (a < 0 || b < 0) return;
    const merged = mergeOf(a, b);
    if (merged >= 0) heap.push({ score: scoreOf(merged), left, right, a, b, merged });
  };
  for (let index = 0; index < count - 1; index++) consider(index);
  for (let top = heap.pop(); top; top = heap.pop()) {
    const { left, right, a, b, merged } = top;
    if (symbols[left] !== a || symbols[right] !== b || next[left] !== right) continue;
    symbols[left] = merged;
    symbols[right] = GONE;
    const after = next[right] ?? count;
    next[left] = after;
    if (after < count) previous[after] = left;
    consider(previous[left] ?? -1);
    consider(left);
  }
}

interface Candidate {
  readonly score: number;
  readonly left: number;
  readonly right: number;
  readonly a: number;
  readonly b: number;
  readonly merged: number;
}

/** A binary heap of merge candidates. */
class Heap {
  private readonly items: Candidate[] = [];

  push(item: Candidate): void {
    let index = this.items.push(item) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.swapIfBefore(index, parent)) return;
      index = parent;
    }
  }

  pop(): Candidate | undefined {
    const top = this.items[0];
    const last = this.items.pop();
    if (last && this.items.length > 0) {
      this.items[0] = last;
      this.sink(0);
    }
    return top;
  }

  private sink(from: number): void {
    for (let index = from; ; ) {
      const left = 2 * index + 1;
      const right = left + 1;
      const best = right < this.items.length && this.before(right, left) ? right : left;
      if (best >= this.items.length || !this.swapIfBefore(best, index)) return;
      index = best;
    }
  }

  private before(first: number, second: number): boolean {
    const a = this.items[first];
    const b = this.items[second];
    if (!a || !b) return false;
    return a.score > b.score || (a.score === b.score && a.left < b.left);
  }

  private swapIfBefore(first: number, second: number): boolean {
    if (!this.before(first, second)) return false;
    const a = this.items[first] as Candidate;
    this.items[first] = this.items[second] as Candidate;
    this.items[second] = a;
    return true;
  }
}

/** What an unknown character costs below the worst piece, as in SentencePiece. */
const UNKNOWN_PENALTY = 10;

function unigramCut(model: PieceModel, ids: Map<string, number>): (word: string) => Cut {
  let longest = 1;
  let worst = Number.POSITIVE_INFINITY;
  for (const [text, id] of ids) {
    longest = Math.max(longest, [...text].length);
    worst = Math.min(worst, model.pieces[id]?.score ?? worst);
  }
  const unknownScore = worst - UNKNOWN_PENALTY;
  return (word) => {
    const chars = [...word];
    const best = new Float64Array(chars.length + 1).fill(Number.NEGATIVE_INFINITY);
    const from = new Int32Array(chars.length + 1);
    const via = new Int32Array(chars.length + 1).fill(-1);
    best[0] = 0;
    for (let start = 0; start < chars.length; start++) {
      let text = "";
      for (let end = start + 1; end <= Math.min(chars.length, start + longest); end++) {
        text += chars[end - 1];
        const id = ids.get(text) ?? -1;
        if (id < 0 && end > start + 1) continue;
        const score = (best[start] ?? 0) + (id < 0 ? unknownScore : (model.pieces[id]?.score ?? 0));
        if (score > (best[end] ?? 0)) {
          best[end] = score;
          from[end] = start;
          via[end] = id;
        }
      }
    }
    const cut: Cut = [];
    for (let end = chars.length; end > 0; end = from[end] ?? 0) {
      const id = via[end] ?? -1;
      cut.push(id >= 0 ? id : chars.slice(from[end] ?? 0, end).join(""));
    }
    return cut.reverse();
  };
}
