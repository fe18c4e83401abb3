import type { ChatMessage } from "../../models/tokenizer/index.js";
import type { FeedbackRow, PreferenceRow, Turns } from "../types.js";
import { isProblem, readTools, readTurns } from "./chat.js";
import type { FieldNames, Fields } from "./fields.js";

/** {prompt?, chosen, rejected}, as text or as messages; ShareGPT's {conversations} may be the prompt. */
export function readPreference(value: Fields, fields: FieldNames): PreferenceRow | string {
  const chosen = readTurns(value[fields.chosen ?? "chosen"], fields.chosen ?? "chosen");
  const rejected = readTurns(value[fields.rejected ?? "rejected"], fields.rejected ?? "rejected");
  if (isProblem(chosen)) return String(chosen[0]);
  if (isProblem(rejected)) return String(rejected[0]);
  if (typeof chosen !== typeof rejected) return "'chosen' and 'rejected' are not both text or both messages";
  const given = promptOf(value, fields);
  const prompt = given === undefined ? undefined : readTurns(given, "prompt");
  if (prompt !== undefined && isProblem(prompt)) return String(prompt[0]);
  const tools = readTools(value[fields.tools ?? "tools"]);
  if (typeof tools === "string") return tools;
  const parts = align(prompt, chosen, rejected);
  if (typeof parts === "string") return parts;
  if (equal(parts.chosen, parts.rejected)) return "'chosen' and 'rejected' are equal";
  return { kind: "preference", ...parts, ...(tools ? { tools } : {}) };
}

/** {prompt, completion, label} or {messages, label}: the last assistant turn is the one that is judged. */
export function readFeedback(value: Fields, fields: FieldNames): FeedbackRow | string {
  const desirable = verdict(value[fields.label ?? "label"]);
  if (desirable === undefined) return `field '${fields.label ?? "label"}' is neither true nor false`;
  const messages = value[fields.messages ?? "messages"] ?? value.conversations;
  if (messages !== undefined) {
    const turns = readTurns(messages, "messages");
    if (isProblem(turns)) return String(turns[0]);
    if (typeof turns === "string") return "'messages' is not a list of messages";
    if (turns.at(-1)?.role !== "assistant") return "the last message is not the assistant's";
    return {
      kind: "feedback",
      prompt: turns.slice(0, -1),
      completion: turns.slice(-1),
      desirable,
    };
  }
  const prompt = readTurns(value[fields.prompt ?? "prompt"], fields.prompt ?? "prompt");
  const completion = readTurns(value[fields.completion ?? "completion"], fields.completion ?? "completion");
  if (isProblem(prompt)) return String(prompt[0]);
  if (isProblem(completion)) return String(completion[0]);
  if (typeof prompt === typeof completion) return { kind: "feedback", prompt, completion, desirable };
  if (typeof completion === "string") {
    return { kind: "feedback", prompt, completion: [{ role: "assistant", content: completion }], desirable };
  }
  return "'prompt' and 'completion' are not both text or both messages";
}

/** A truth value as JSON or CSV write it. */
export function verdict(value: unknown): boolean | undefined {
  if (typeof value === "boolean") return value;
  if (typeof value !== "string") return undefined;
  const text = value.toLowerCase();
  return text === "true" ? true : text === "false" ? false : undefined;
}

const promptOf = (value: Fields, fields: FieldNames): unknown =>
  value[fields.prompt ?? "prompt"] ??
  value[fields.messages ?? "messages"] ??
  value.conversations ??
  value.question;

type Parts = Pick<PreferenceRow, "prompt" | "chosen" | "rejected">;

/** Brings the three to one form, and takes the prompt out of answers that repeat it. */
function align(prompt: Turns | undefined, chosen: Turns, rejected: Turns): Parts | string {
  if (typeof chosen === "string" && typeof rejected === "string") {
    if (prompt === undefined) return commonText(chosen, rejected);
    if (typeof prompt === "string") return { prompt, chosen, rejected };
    const answer = (content: string): ChatMessage[] => [{ role: "assistant", content }];
    return { prompt, chosen: answer(chosen), rejected: answer(rejected) };
  }
  const [yes, no] = [chosen as readonly ChatMessage[], rejected as readonly ChatMessage[]];
  if (prompt === undefined) return commonTurns(yes, no);
  const asked = typeof prompt === "string" ? [{ role: "user", content: prompt }] : prompt;
  const repeats = (turns: readonly ChatMessage[]) =>
    turns.length > asked.length && equal(turns.slice(0, asked.length), asked);
  const rest = (turns: readonly ChatMessage[]) => (repeats(turns) ? turns.slice(asked.length) : turns);
  return { prompt: asked, chosen: rest(yes), rejected: rest(no) };
}

/** Where two texts part, before the space in front of the first different word (as TRL does). */
function commonText(chosen: string, rejected: string): Parts | string {
  let at = 0;
  while (at < Math.min(chosen.length, rejected.length) && chosen[at] === rejected[at]) at++;
  if (chosen[at - 1] === " ") at--;
  if (at === 0) return "no field 'prompt', and 'chosen' and 'rejected' begin differently";
  if (at === chosen.length && at === rejected.length) return "'chosen' and 'rejected' are equal";
  return { prompt: chosen.slice(0, at), chosen: chosen.slice(at), rejected: rejected.slice(at) };
}

function commonTurns(chosen: readonly ChatMessage[], rejected: readonly ChatMessage[]): Parts | string {
  let at = 0;
  while (at < Math.min(chosen.length, rejected.length) && equal(chosen[at], rejected[at])) at++;
  if (at === chosen.length && at === rejected.length) return "'chosen' and 'rejected' are equal";
  if (at === 0) return "no field 'prompt', and 'chosen' and 'rejected' begin differently";
  if (at === chosen.length || at === rejected.length)
    return "'chosen' or 'rejected' has no answer of its own";
  return { prompt: chosen.slice(0, at), chosen: chosen.slice(at), rejected: rejected.slice(at) };
}

const equal = (a: unknown, b: unknown) => a === b || JSON.stringify(a) === JSON.stringify(b);
