import type { Tokenizer } from "../../models/tokenizer/index.js";
import { answerRow } from "../rows.js";
import { type TokenizeOptions, tokenizeExamples } from "../tokenize.js";
import type { Row, TokenizedExample } from "../types.js";

/** A token as it is trained. */
export interface MaskedToken {
  readonly id: number;
  /** What it adds to the text; a part of a character is a replacement sign. */
  readonly text: string;
  /** Whether it has a loss. */
  readonly trained: boolean;
  /** Whether it is one of the tokenizer's special tokens. */
  readonly special: boolean;
}

/** One tokenized example of a row. */
export interface MaskedExample {
  /** `chosen`, `rejected`, or empty where a row is one example. */
  readonly name: string;
  readonly tokens: readonly MaskedToken[];
}

/** The rows that a language model sees of a row; none for kinds that it does not continue. */
export function languageRows(row: Row): readonly { name: string; row: Row; trainOn?: "last" }[] {
  switch (row.kind) {
    case "text":
    case "completion":
    case "chat":
      return [{ name: "", row }];
    case "preference":
      return (["chosen", "rejected"] as const).map((name) => ({
        name,
        row: answerRow(row, name),
        trainOn: "last",
      }));
    case "feedback":
      return [{ name: row.desirable ? "desirable" : "undesirable", row: answerRow(row), trainOn: "last" }];
    default:
      return [];
  }
}

/**
 * The exact tokens and loss mask of a row, as training will see them. Rows of texts and prompts with answers only: empty
 * for others. Throws what `tokenizeExamples` throws.
 *
 * @example
 * ```ts
 * import { maskRow } from "tunesmith/data";
 * import { loadTokenizer } from "tunesmith/models";
 * const row = { kind: "completion", prompt: "1 + 1 =", completion: " 2" } as const;
 * for (const { tokens } of maskRow(row, await loadTokenizer("path/to/model"), { maxLength: 64 })) {
 *   console.log(tokens.map(({ text, trained }) => (trained ? `[${text}]` : text)).join(""));
 * }
 * ```
 */
export function maskRow(row: Row, tokenizer: Tokenizer, options: TokenizeOptions): MaskedExample[] {
  return languageRows(row).flatMap(({ name, row: part, trainOn }) =>
    tokenizeExamples([part], tokenizer, { ...options, ...(trainOn ? { trainOn } : {}) }).examples.map(
      (example) => ({
        name,
        tokens: maskedTokens(example, tokenizer),
      }),
    ),
  );
}

function maskedTokens({ ids, lossMask }: TokenizedExample, tokenizer: Tokenizer): MaskedToken[] {
  const stream = tokenizer.decodeStream();
  const tokens = Array.from(ids, (id, at) => ({
    id,
    text: stream.push(id),
    trained: lossMask[at] === 1,
    special: tokenizer.specialIds.has(id),
  }));
  const rest = stream.end();
  const last = tokens.at(-1);
  if (last) tokens[tokens.length - 1] = { ...last, text: last.text + rest };
  return tokens;
}
