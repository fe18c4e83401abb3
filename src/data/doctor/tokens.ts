import { TunesmithError } from "../../errors/index.js";
import { renderChat, type Tokenizer } from "../../models/tokenizer/index.js";
import { type TokenizeOptions, tokenizeExamples } from "../tokenize.js";
import type { ChatRow, NumberedRow, Row, TokenizedExample } from "../types.js";
import { EXAMPLES } from "./duplicates.js";
import { type Lengths, lengthCounter } from "./lengths.js";
import { languageRows } from "./mask.js";

/** What the tokens of a sample of rows show. */
export interface TokenReport {
  /** Rows that were tokenized, of all that were kept. */
  readonly rows: number;
  readonly lengths: Lengths | undefined;
  readonly tokens: number;
  readonly trainedTokens: number;
  readonly maxLength: number;
  /** Examples longer than `maxLength`, the tokens they lose, and those of which no trained token is left. */
  readonly truncated: { readonly examples: number; readonly tokens: number; readonly lost: number };
  /** Tokens that stand for text the tokenizer does not know. */
  readonly unknown: number;
}

/** Something to look at. */
export interface Finding {
  readonly severity: "error" | "warning" | "note";
  /** Short and stable, for programs. */
  readonly code: string;
  readonly message: string;
  readonly fix?: string;
  /** Rows or tokens concerned. */
  readonly count?: number;
  readonly rows?: readonly (number | string)[];
}

/** Rows with a finding: how many, and which came first. */
interface Tally {
  count: number;
  readonly rows: (number | string)[];
}

const WHOLE = 2 ** 24;

/** Tokenizes rows as training will, and looks for what goes wrong without an error there. */
export function checkTokens(
  rows: readonly NumberedRow[],
  tokenizer: Tokenizer,
  options: TokenizeOptions & { readonly vocabSize?: number },
): { report: TokenReport; findings: Finding[] } {
  const { maxLength, vocabSize, ...rest } = options;
  const lengths = lengthCounter();
  const tallies = new Map<string, Tally>();
  const note = (code: string, row: number | string) => {
    const tally = tallies.get(code) ?? { count: 0, rows: [] };
    tally.count++;
    if (tally.rows.length < EXAMPLES) tally.rows.push(row);
    tallies.set(code, tally);
  };
  const sum = { tokens: 0, trainedTokens: 0, unknown: 0, rows: 0 };
  const truncated = { examples: 0, tokens: 0, lost: 0 };
  const refused = new Map<string, Tally>();
  for (const { row, value } of rows) {
    sum.rows++;
    for (const { row: part, trainOn } of languageRows(value)) {
      const whole = wholeExample(part, tokenizer, { ...rest, ...(trainOn ? { trainOn } : {}) });
      if (typeof whole === "string") {
        const tally = refused.get(whole) ?? { count: 0, rows: [] };
        tally.count++;
        if (tally.rows.length < EXAMPLES) tally.rows.push(row);
        refused.set(whole, tally);
        continue;
      }
      lengths.add(whole.ids.length);
      sum.tokens += whole.ids.length;
      sum.trainedTokens += whole.lossMask.reduce((total, one) => total + one, 0);
      if (part.kind !== "text" && whole.ids.length > maxLength) {
        truncated.examples++;
        truncated.tokens += whole.ids.length - maxLength;
        if (!whole.lossMask.subarray(0, maxLength).includes(1)) truncated.lost++;
      }
      for (const code of problemsOf(part, whole, tokenizer, vocabSize, options)) note(code, row);
      if (tokenizer.unkId !== undefined) {
        for (const id of whole.ids) if (id === tokenizer.unkId) sum.unknown++;
      }
    }
  }
  const report: TokenReport = { ...sum, lengths: lengths.report(), maxLength, truncated };
  return { report, findings: [...findingsOf(tallies, report), ...refusals(refused)] };
}

/** The example without a limit, or why there is none. */
function wholeExample(
  row: Row,
  tokenizer: Tokenizer,
  options: Omit<TokenizeOptions, "maxLength">,
): TokenizedExample | string {
  try {
    const { examples } = tokenizeExamples([row], tokenizer, { ...options, maxLength: WHOLE });
    return examples[0] as TokenizedExample;
  } catch (error) {
    if (error instanceof TunesmithError) return error.message.split("\n  fix:")[0] ?? error.message;
    throw error;
  }
}

/** Codes of what is wrong with one example. */
function problemsOf(
  row: Row,
  { ids, lossMask }: TokenizedExample,
  tokenizer: Tokenizer,
  vocabSize: number | undefined,
  options: TokenizeOptions,
): string[] {
  const { bosId, eosId, specialIds } = tokenizer;
  const found: string[] = [];
  if (bosId !== undefined && ids[0] === bosId && ids[1] === bosId) found.push("double-bos");
  if (vocabSize !== undefined && ids.some((id) => id >= vocabSize)) found.push("id-beyond-vocabulary");
  if (row.kind === "chat") {
    if (!answersEnd(ids, lossMask, specialIds)) found.push("no-end-of-answer");
    if (toolsAreLost(row, tokenizer, options)) found.push("tool-calls-lost");
    return found;
  }
  const trained = ids.findLastIndex((_, at) => lossMask[at] === 1);
  if (eosId !== undefined && ids[trained] === eosId && ids[trained - 1] === eosId) found.push("double-eos");
  // The ends are put there by us; whatever else is special came out of the text.
  const first = bosId !== undefined && ids[0] === bosId ? 1 : 0;
  const last = eosId !== undefined && ids.at(-1) === eosId ? ids.length - 1 : ids.length;
  if (ids.subarray(first, last).some((id) => specialIds.has(id) && id !== tokenizer.unkId)) {
    found.push("special-token-in-text");
  }
  return found;
}

/** Whether every trained stretch has a special token among its last three: the end of a turn, perhaps with a line end. */
function answersEnd(ids: Int32Array, lossMask: Uint8Array, specialIds: ReadonlySet<number>): boolean {
  for (let at = 0; at < ids.length; at++) {
    if (lossMask[at] !== 1 || lossMask[at + 1] === 1) continue;
    const end = ids.subarray(Math.max(0, at - 2), at + 1);
    if (!end.some((id) => specialIds.has(id))) return false;
  }
  return true;
}

function toolsAreLost(row: ChatRow, tokenizer: Tokenizer, options: TokenizeOptions): boolean {
  const names = row.messages.flatMap(({ tool_calls: calls }) =>
    Array.isArray(calls) ? calls.map((call) => String(call?.function?.name ?? call?.name ?? "")) : [],
  );
  if (names.length === 0) return false;
  const { text } = renderChat(tokenizer, row.messages, {
    ...(row.tools ? { tools: row.tools } : {}),
    ...(options.chatTemplate === undefined ? {} : { template: options.chatTemplate }),
    spans: "none",
  });
  return names.some((name) => !text.includes(name));
}

type Known = readonly [severity: Finding["severity"], message: string, fix: string];

const KNOWN: Readonly<Record<string, Known>> = {
  "double-bos": [
    "error",
    "examples begin with two beginning-of-sequence tokens",
    "take the token out of the text or the chat template",
  ],
  "double-eos": [
    "warning",
    "examples end with two end-of-sequence tokens",
    "take the token out of the data, or use appendEos: false",
  ],
  "id-beyond-vocabulary": [
    "error",
    "token ids are beyond the rows of the model's embedding",
    "use the model's own tokenizer, or resize the embedding",
  ],
  "no-end-of-answer": [
    "warning",
    "answers end without a special token: the model does not learn to stop",
    "let the chat template end the assistant's turn with the end-of-sequence or end-of-turn token",
  ],
  "tool-calls-lost": [
    "error",
    "the chat template leaves out tool calls: they are not learnt",
    "use a chat template that writes `tool_calls`",
  ],
  "special-token-in-text": [
    "warning",
    "the text itself holds special tokens, which end or begin a sequence in the middle",
    "remove them from the text if they are not meant",
  ],
};

function findingsOf(tallies: ReadonlyMap<string, Tally>, report: TokenReport): Finding[] {
  const findings: Finding[] = [...tallies].flatMap(([code, { count, rows }]) => {
    const known = KNOWN[code];
    return known ? [{ severity: known[0], code, message: known[1], fix: known[2], count, rows }] : [];
  });
  const { truncated, maxLength, unknown, tokens } = report;
  if (truncated.examples > 0) {
    findings.push({
      severity: truncated.lost > 0 ? "warning" : "note",
      code: "truncated",
      message: `${truncated.examples} examples are longer than ${maxLength} tokens and lose ${truncated.tokens} in all${truncated.lost > 0 ? `; ${truncated.lost} of them lose their whole answer and are dropped` : ""}`,
      fix: "raise maxLength, or shorten the rows",
      count: truncated.examples,
    });
  }
  if (unknown > 0) {
    findings.push({
      severity: unknown > tokens / 100 ? "warning" : "note",
      code: "unknown-tokens",
      message: `${unknown} of ${tokens} tokens are unknown to the tokenizer`,
      fix: "use a tokenizer that knows the language and the signs of the data",
      count: unknown,
    });
  }
  return findings;
}

const refusals = (refused: ReadonlyMap<string, Tally>): Finding[] =>
  [...refused].map(([message, { count, rows }]) => ({
    severity: "error",
    code: "cannot-tokenize",
    message,
    count,
    rows,
  }));

/** What can be said of a tokenizer without data. */
export function checkTokenizer(
  tokenizer: Tokenizer,
  template: string | undefined,
  hasChats: boolean,
): Finding[] {
  const findings: Finding[] = [];
  const { eosId, padId } = tokenizer;
  if (eosId === undefined) {
    findings.push({
      severity: "warning",
      code: "no-eos",
      message: "the tokenizer has no end-of-sequence token: documents and answers have no end mark",
      fix: "name one in tokenizer_config.json (eos_token)",
    });
  } else if (padId === eosId) {
    findings.push({
      severity: "note",
      code: "pad-is-eos",
      message:
        "padding and end of sequence are one token; here padding has no loss by its place, so the end is still learnt",
    });
  }
  if (hasChats && template === undefined) {
    findings.push({
      severity: "error",
      code: "no-chat-template",
      message: "the rows are conversations, and the tokenizer has no chat template",
      fix: "give one with chatTemplate (PLAIN_CHAT_TEMPLATE is one)",
    });
  }
  return findings;
}
