import type { Tokenizer } from "../models/tokenizer/index.js";
import { chooseLengths } from "./batches.js";
import { type Pack, type PackOptions, packExamples } from "./pack.js";
import { type TokenizeOptions, type TokenizeReport, tokenizeExamples } from "./tokenize.js";
import type { Row } from "./types.js";

export interface PrepareOptions extends Omit<TokenizeOptions, "maxLength"> {
  /** Tokens per row at most. */
  readonly length: number;
  /** Default `ffd`. */
  readonly packing?: PackOptions["strategy"];
}

/** Rows as a trainer or an evaluator takes them. */
export interface PreparedRows {
  readonly packs: readonly Pack[];
  /** Row lengths to compile for: one when rows are packed, else up to four that pad least. */
  readonly lengths: readonly number[];
  readonly report: TokenizeReport;
}

/**
 * Tokenizes rows and packs them. Throws what `tokenizeExamples` throws.
 *
 * @example
 * ```ts
 * import { loadDataset, prepareRows } from "tunesmith/data";
 * import { loadTokenizer } from "tunesmith/models";
 * const { rows } = await loadDataset("notes.txt");
 * const { packs, lengths } = prepareRows(rows, await loadTokenizer("path/to/model"), { length: 128 });
 * console.log(packs.length, lengths);
 * ```
 */
export function prepareRows(
  rows: readonly Row[],
  tokenizer: Tokenizer,
  options: PrepareOptions,
): PreparedRows {
  const { length, packing = "ffd", ...tokenize } = options;
  const { examples, report } = tokenizeExamples(rows, tokenizer, { ...tokenize, maxLength: length });
  const packs = packExamples(examples, { length, strategy: packing });
  const sizes = packs.map(({ tokens }) => tokens);
  const shapes = chooseLengths(sizes, { maxShapes: packing === "none" ? 4 : 1, multiple: 16 });
  const lengths = [...new Set(shapes.map((size) => Math.min(size, length)))];
  return { packs, lengths, report };
}

/** The id that fills rows up: the tokenizer's own, else any (padding has no loss and no attention). */
export const paddingId = (tokenizer: Tokenizer): number => tokenizer.padId ?? tokenizer.eosId ?? 0;
