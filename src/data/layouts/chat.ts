import type { ChatMessage } from "../../models/tokenizer/index.js";
import type { Turns } from "../types.js";
import { isFields } from "./fields.js";

/** ShareGPT's names of the speakers. */
const ROLES: Readonly<Record<string, string>> = {
  human: "user",
  gpt: "assistant",
  model: "assistant",
  bot: "assistant",
  function_call: "assistant",
  observation: "tool",
  function_response: "tool",
};

/** Reads messages in the shape of OpenAI ({role, content}) or ShareGPT ({from, value}), or says why not. */
export function readMessages(value: unknown, label: string): ChatMessage[] | string {
  if (!Array.isArray(value) || value.length === 0) return `'${label}' is not a list of messages`;
  const messages: ChatMessage[] = [];
  for (let index = 0; index < value.length; index++) {
    const message = readMessage(value[index], index);
    if (typeof message === "string") return message;
    messages.push(message);
  }
  return messages;
}

function readMessage(item: unknown, index: number): ChatMessage | string {
  if (!isFields(item)) return `message ${index} is not an object`;
  const role = item.role ?? item.from;
  const content = textOf(item.content ?? item.value ?? (item.tool_calls ? "" : undefined));
  if (typeof role !== "string" || content === undefined) {
    return `message ${index} needs the texts 'role' and 'content'`;
  }
  const { from: _from, value: _value, ...rest } = item;
  const call = role === "function_call" ? toolCalls(content) : undefined;
  if (call) return { ...rest, role: "assistant", content: "", tool_calls: call };
  return { ...rest, role: ROLES[role] ?? role, content };
}

/** A text, or the joined texts of OpenAI's content parts. */
function textOf(content: unknown): string | undefined {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return undefined;
  const parts = content.map((part) => (isFields(part) && part.type === "text" ? part.text : undefined));
  return parts.every((part) => typeof part === "string") ? parts.join("") : undefined;
}

/** ShareGPT writes a call as JSON in the text; templates read `tool_calls`. */
function toolCalls(content: string): object[] | undefined {
  try {
    const calls = [JSON.parse(content) as unknown].flat();
    if (!calls.every((call) => isFields(call) && typeof call.name === "string")) return undefined;
    return calls.map((call) => ({ type: "function", function: call }));
  } catch {
    return undefined;
  }
}

/** The tools of a row, given as a list or as its JSON. A string says what is wrong. */
export function readTools(value: unknown): readonly object[] | undefined | string {
  if (value === undefined || value === null || value === "") return undefined;
  let tools = value;
  if (typeof value === "string") {
    try {
      tools = JSON.parse(value);
    } catch {
      return "'tools' is not JSON";
    }
  }
  if (!Array.isArray(tools) || !tools.every(isFields)) return "'tools' is not a list of objects";
  return tools.length > 0 ? tools : undefined;
}

/** One side of a pair: text, a message, or messages. */
export function readTurns(value: unknown, label: string): Turns | string[] {
  if (typeof value === "string") return value.trim() === "" ? [`field '${label}' is empty`] : value;
  if (value === undefined || value === null) return [`no field '${label}'`];
  const messages = readMessages(isFields(value) ? [value] : value, label);
  return typeof messages === "string" ? [messages] : messages;
}

/** `readTurns` wraps what is wrong in a list, as text is a valid result. */
export const isProblem = (turns: Turns | string[]): turns is string[] =>
  Array.isArray(turns) && typeof turns[0] === "string";
