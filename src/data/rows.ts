import { TunesmithError } from "../errors/index.js";
import type { ChatMessage } from "../models/tokenizer/index.js";
import type { ChatRow, CompletionRow, FeedbackRow, PreferenceRow, Row, Turns } from "./types.js";

/**
 * One answer of a row with answers that are judged, as a row that can be tokenized. Tokenize those of messages with
 * `trainOn: "last"`, as the turns before the answer belong to the prompt.
 *
 * @param side Which answer of a preference pair; feedback has one. Default `chosen`.
 *
 * @example
 * ```ts
 * import { answerRow, type PreferenceRow, tokenizeExamples } from "tunesmith/data";
 * import { loadTokenizer } from "tunesmith/models";
 * const row: PreferenceRow = { kind: "preference", prompt: "1 + 1 =", chosen: " 2", rejected: " 3" };
 * const rows = [answerRow(row, "chosen"), answerRow(row, "rejected")];
 * const options = { maxLength: 64, trainOn: "last" as const };
 * console.log(tokenizeExamples(rows, await loadTokenizer("path/to/model"), options).examples.length); // 2
 * ```
 */
export function answerRow(
  row: PreferenceRow | FeedbackRow,
  side: "chosen" | "rejected" = "chosen",
): CompletionRow | ChatRow {
  const answer = row.kind === "feedback" ? row.completion : row[side];
  const { prompt } = row;
  if (typeof prompt === "string" && typeof answer === "string") {
    return { kind: "completion", prompt, completion: answer };
  }
  const tools = row.kind === "preference" ? row.tools : undefined;
  const messages = [...asMessages(prompt, "user"), ...asMessages(answer, "assistant")];
  return { kind: "chat", messages, ...(tools ? { tools } : {}) };
}

const asMessages = (turns: Turns, role: string): readonly ChatMessage[] =>
  typeof turns === "string" ? [{ role, content: turns }] : turns;

/**
 * The classes of rows, or the tags of their words: numbers in order, then names sorted by code unit. The place in the
 * list is the class's id.
 */
export function labelNames(rows: Iterable<Row>): readonly (string | number)[] {
  const found = new Set<string | number>();
  for (const row of rows) {
    if (row.kind === "tags") for (const tag of row.tags) found.add(tag);
    else if ("label" in row) found.add(row.label);
  }
  return [...found].sort((a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : 1;
  });
}

/**
 * What is given and what is to be learnt, as text: for comparing rows. Media have neither; their bytes are compared.
 */
export function textsOf(row: Row): { readonly input: string; readonly output: string } {
  switch (row.kind) {
    case "text":
      return { input: row.text, output: "" };
    case "completion":
      return { input: row.prompt, output: row.completion };
    case "chat": {
      const last = row.messages.findLastIndex(({ role }) => role === "assistant");
      return { input: turnsText(row.messages.slice(0, last)), output: turnsText(row.messages.slice(last)) };
    }
    case "preference":
      return { input: turnsText(row.prompt), output: `${turnsText(row.chosen)}\n${turnsText(row.rejected)}` };
    case "feedback":
      return { input: turnsText(row.prompt), output: `${turnsText(row.completion)}\n${row.desirable}` };
    case "classification":
      return {
        input: row.pair === undefined ? row.text : `${row.text}\n${row.pair}`,
        output: String(row.label),
      };
    case "similarity":
      return { input: row.anchor, output: [row.positive, ...row.negatives].join("\n") };
    case "tags":
      return { input: row.tokens.join(" "), output: row.tags.join(" ") };
    default:
      return { input: "", output: String(row.label) };
  }
}

function turnsText(turns: Turns): string {
  if (typeof turns === "string") return turns;
  let text = "";
  for (const { content, tool_calls: calls } of turns) {
    text += `${content}\n`;
    if (calls !== undefined) text += `${JSON.stringify(calls)}\n`;
  }
  return text;
}

/**
 * The task of each row. Throws `data-invalid` naming the first row that says none.
 *
 * @example
 * ```ts
 * import { tasksOf } from "tunesmith/data";
 * console.log(tasksOf([{ kind: "text", text: "1 + 1 = 2", task: "sums" }])); // ["sums"]
 * ```
 */
export const tasksOf = (rows: readonly Row[]): string[] =>
  rows.map(({ task }, at) => {
    if (task !== undefined) return task;
    throw new TunesmithError("data-invalid", `row ${at + 1} does not say which task it is of`, {
      fix: "give every row a field 'task', or a data file for each task",
    });
  });
