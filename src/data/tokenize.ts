import { TunesmithError } from "../errors/index.js";
import { renderChat, type Tokenizer } from "../models/tokenizer/index.js";
import type { ChatRow, CompletionRow, DroppedRow, LanguageRow, Row, TokenizedExample } from "./types.js";

export interface TokenizeOptions {
  /** Tokens per example at most; longer documents are cut into blocks, longer answers are cut off. */
  readonly maxLength: number;
  /** Ends each document and each completion with the end-of-sequence token, if there is one. Default true. */
  readonly appendEos?: boolean;
  /** A Jinja chat template instead of the tokenizer's own. */
  readonly chatTemplate?: string;
  /** Which answers of a conversation are trained. Default `all`. */
  readonly trainOn?: "all" | "last";
  /** Called after each row. */
  readonly onProgress?: (done: number, total: number) => void;
}

export interface TokenizeReport {
  /** Tokens in all examples. */
  readonly tokens: number;
  /** Tokens with a loss. */
  readonly trainedTokens: number;
  /** Examples that were cut at `maxLength`, and the tokens lost with it. */
  readonly truncated: number;
  readonly truncatedTokens: number;
  readonly dropped: readonly DroppedRow[];
  /** True when `appendEos` was asked for and the tokenizer has no end-of-sequence token. */
  readonly eosMissing: boolean;
}

export interface TokenizedDataset {
  readonly examples: readonly TokenizedExample[];
  readonly report: TokenizeReport;
}

/**
 * Turns rows into token ids and loss masks.
 *
 * - Text: each document, between the tokenizer's beginning token and the end-of-sequence token, is cut into blocks of
 *   `maxLength`. Blocks overlap by one token, so that every token but a document's first is trained exactly once.
 * - Prompt and completion, conversations: only completions (and what the template puts at their end) are trained.
 *   Prompt and completion are tokenized apart, as they are when the model answers.
 *
 * Throws `data-invalid` for rows of other kinds, `config-invalid` for a `maxLength` below 2, `data-empty` when no example is left, and what `renderChat`
 * throws for conversations.
 *
 * @example
 * ```ts
 * import { loadDataset, tokenizeExamples } from "tunesmith/data";
 * import { loadTokenizer } from "tunesmith/models";
 * const tokenizer = await loadTokenizer("path/to/model");
 * const dataset = await loadDataset("chats.jsonl");
 * const { examples, report } = tokenizeExamples(dataset.rows, tokenizer, { maxLength: 512 });
 * console.log(examples.length, report.trainedTokens, report.truncated);
 * ```
 */
export function tokenizeExamples(
  rows: readonly Row[],
  tokenizer: Tokenizer,
  options: TokenizeOptions,
): TokenizedDataset {
  const { maxLength } = options;
  if (!Number.isInteger(maxLength) || maxLength < 2) {
    throw new TunesmithError("config-invalid", `maxLength ${maxLength} is too small`, {
      fix: "use at least 2 tokens: one to read and one to predict",
    });
  }
  const prefix = beginningIds(tokenizer);
  const appendEos = options.appendEos ?? true;
  const eos = appendEos && tokenizer.eosId !== undefined ? [tokenizer.eosId] : [];
  const examples: TokenizedExample[] = [];
  const dropped: DroppedRow[] = [];
  let truncated = 0;
  let truncatedTokens = 0;
  rows.forEach((given, index) => {
    const row = languageRow(given);
    const whole =
      row.kind === "text"
        ? document(row.text, tokenizer, prefix, eos)
        : answer(row, tokenizer, prefix, eos, options);
    const lost = row.kind === "text" ? 0 : Math.max(0, whole.ids.length - maxLength);
    const blocks = row.kind === "text" ? blocksOf(whole, maxLength) : [slice(whole, 0, maxLength)];
    const kept = blocks.filter((block) => block.lossMask.includes(1));
    if (kept.length === 0) dropped.push({ row: index + 1, reason: emptyReason(whole, maxLength) });
    else if (lost > 0) {
      truncated++;
      truncatedTokens += lost;
    }
    examples.push(...kept);
    options.onProgress?.(index + 1, rows.length);
  });
  if (examples.length === 0) {
    throw new TunesmithError(
      "data-empty",
      `no example is left after tokenizing ${rows.length} rows${dropped[0] ? `: ${dropped[0].reason}` : ""}`,
      { fix: "raise maxLength or give longer rows", details: { dropped } },
    );
  }
  return {
    examples,
    report: {
      tokens: examples.reduce((sum, example) => sum + example.ids.length, 0),
      trainedTokens: examples.reduce((sum, example) => sum + trainedIn(example), 0),
      truncated,
      truncatedTokens,
      dropped,
      eosMissing: appendEos && tokenizer.eosId === undefined,
    },
  };
}

/** Rows of the other kinds are learnt by objectives that read them in their own way. */
function languageRow(row: Row): LanguageRow {
  if (row.kind === "text" || row.kind === "completion" || row.kind === "chat") return row;
  const judged = row.kind === "preference" || row.kind === "feedback";
  throw new TunesmithError("data-invalid", `a ${row.kind} row is no text that a language model continues`, {
    fix: judged
      ? "train with an objective for answers that are judged, or take one answer of each row with answerRow"
      : "train for the task that the rows are of, or read them in another `layout`",
    details: { kind: row.kind },
  });
}

function trainedIn(example: TokenizedExample): number {
  return example.lossMask.reduce((sum, value) => sum + value, 0);
}

function emptyReason(example: TokenizedExample, maxLength: number): string {
  return example.lossMask.includes(1)
    ? `the prompt alone fills ${maxLength} tokens`
    : "fewer than two tokens, nothing to predict";
}

/** What the tokenizer puts before a text: the tokens of an empty one, up to its end-of-sequence token. */
function beginningIds(tokenizer: Tokenizer): number[] {
  const ids = [...tokenizer.encode("")];
  const end =
    tokenizer.eosId === undefined || tokenizer.eosId === tokenizer.bosId
      ? -1
      : ids.lastIndexOf(tokenizer.eosId);
  return end < 0 ? ids : ids.slice(0, end);
}

function document(text: string, tokenizer: Tokenizer, prefix: number[], eos: number[]): TokenizedExample {
  const body = tokenizer.encode(text, { addSpecialTokens: false });
  const ids = new Int32Array(prefix.length + body.length + eos.length);
  ids.set(prefix);
  ids.set(body, prefix.length);
  ids.set(eos, prefix.length + body.length);
  const lossMask = new Uint8Array(ids.length).fill(1);
  // A beginning token is given, never predicted.
  lossMask.fill(0, 0, Math.max(1, prefix.length));
  return { ids, lossMask };
}

function answer(
  row: CompletionRow | ChatRow,
  tokenizer: Tokenizer,
  prefix: number[],
  eos: number[],
  options: TokenizeOptions,
): TokenizedExample {
  if (row.kind === "completion") {
    return joined(
      tokenizer,
      prefix,
      [
        { text: row.prompt, trained: false },
        { text: row.completion, trained: true },
      ],
      eos,
    );
  }
  const rendered = renderChat(tokenizer, row.messages, {
    ...(row.tools ? { tools: row.tools } : {}),
    ...(options.chatTemplate === undefined ? {} : { template: options.chatTemplate }),
    spans: options.trainOn ?? "all",
  });
  const pieces: { text: string; trained: boolean }[] = [];
  let at = 0;
  for (const [start, end] of rendered.spans) {
    pieces.push({ text: rendered.text.slice(at, start), trained: false });
    pieces.push({ text: rendered.text.slice(start, end), trained: true });
    at = end;
  }
  pieces.push({ text: rendered.text.slice(at), trained: false });
  // The template writes the special tokens itself.
  return joined(tokenizer, [], pieces, []);
}

/** Tokenizes consecutive pieces of one text; `eos` belongs to the last, trained piece. */
function joined(
  tokenizer: Tokenizer,
  prefix: number[],
  pieces: readonly { text: string; trained: boolean }[],
  eos: number[],
): TokenizedExample {
  const ids: number[] = [...prefix];
  const mask: number[] = prefix.map(() => 0);
  let started = false;
  for (const { text, trained } of pieces) {
    if (text === "") continue;
    for (const id of tokenizer.encode(text, { addSpecialTokens: false, continuation: started })) {
      ids.push(id);
      mask.push(trained ? 1 : 0);
    }
    started = true;
  }
  for (const id of eos) {
    ids.push(id);
    mask.push(1);
  }
  const lossMask = Uint8Array.from(mask);
  if (lossMask.length > 0) lossMask[0] = 0;
  return { ids: Int32Array.from(ids), lossMask };
}

/** Blocks of at most `maxLength` tokens; each but the first begins with the last token of the one before. */
function blocksOf(example: TokenizedExample, maxLength: number): TokenizedExample[] {
  const blocks: TokenizedExample[] = [];
  for (let start = 0; start === 0 || start + 1 < example.ids.length; start += maxLength - 1) {
    blocks.push(slice(example, start, start + maxLength));
  }
  return blocks;
}

function slice(example: TokenizedExample, start: number, end: number): TokenizedExample {
  const ids = example.ids.slice(start, end);
  const lossMask = example.lossMask.slice(start, end);
  if (lossMask.length > 0) lossMask[0] = 0;
  return { ids, lossMask };
}
