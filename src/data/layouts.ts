import type { ChatMessage } from "../models/tokenizer/index.js";
import type { Layout, Row } from "./types.js";

/** Names of the fields to read instead of the layout's own, for example `{ prompt: "question" }`. */
export type FieldNames = Readonly<
  Partial<
    Record<
      "text" | "prompt" | "completion" | "messages" | "instruction" | "input" | "output" | "tools",
      string
    >
  >
>;

type Fields = Record<string, unknown>;

/** ShareGPT's names of the speakers. */
const ROLES: Readonly<Record<string, string>> = {
  human: "user",
  gpt: "assistant",
  function_call: "assistant",
  observation: "tool",
};

/** The layout whose fields a row has; undefined when it has none of them. */
export function detectLayout(value: unknown, fields: FieldNames): Layout | undefined {
  if (!isFields(value)) return undefined;
  const has = (name: keyof FieldNames) => (fields[name] ?? name) in value;
  if (has("messages") || "conversations" in value) return "chat";
  if (has("prompt") && has("completion")) return "completion";
  if (has("instruction") && has("output")) return "alpaca";
  return has("text") ? "text" : undefined;
}

/** Reads a row, or says in a string why it cannot be used. */
export function readRow(value: unknown, layout: Layout, fields: FieldNames): Row | string {
  if (!isFields(value)) return "not an object";
  const text = (name: keyof FieldNames) => value[fields[name] ?? name];
  switch (layout) {
    case "text":
      return checked({ text: text("text") }, (row) => ({ kind: "text", text: row.text }), fields);
    case "completion":
      return checked(
        { completion: text("completion"), prompt: text("prompt") },
        (row) => ({ kind: "completion", prompt: row.prompt, completion: row.completion }),
        fields,
        ["prompt"],
      );
    case "alpaca":
      return checked(
        { instruction: text("instruction"), output: text("output"), input: text("input") ?? "" },
        (row) => ({
          kind: "completion",
          prompt: alpacaPrompt(row.instruction, row.input),
          completion: row.output,
        }),
        fields,
        ["input"],
      );
    case "chat":
      return readChat(text("messages") ?? value.conversations, text("tools") ?? value.tools);
  }
}

/** The prompt that Stanford Alpaca's models were trained with. */
export function alpacaPrompt(instruction: string, input = ""): string {
  const paired = input.trim() !== "";
  const head = `Below is an instruction that describes a task${paired ? ", paired with an input that provides further context" : ""}. Write a response that appropriately completes the request.`;
  const context = paired ? `### Input:\n${input}\n\n` : "";
  return `${head}\n\n### Instruction:\n${instruction}\n\n${context}### Response:\n`;
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Builds the row when every field is a text, and those not in `mayBeEmpty` hold something. */
function checked<Name extends keyof FieldNames>(
  values: Record<Name, unknown>,
  build: (row: Record<Name, string>) => Row,
  fields: FieldNames,
  mayBeEmpty: readonly NoInfer<Name>[] = [],
): Row | string {
  for (const name of Object.keys(values) as Name[]) {
    const value = values[name];
    const label = fields[name] ?? name;
    if (value === undefined || value === null) return `no field '${label}'`;
    if (typeof value !== "string") return `field '${label}' is not a text`;
    if (value.trim() === "" && !mayBeEmpty.includes(name)) return `field '${label}' is empty`;
  }
  return build(values as Record<Name, string>);
}

function readChat(value: unknown, tools: unknown): Row | string {
  if (!Array.isArray(value) || value.length === 0) return "'messages' is not a list of messages";
  const messages: ChatMessage[] = [];
  for (const [index, item] of value.entries()) {
    if (!isFields(item)) return `message ${index} is not an object`;
    const role = item.role ?? item.from;
    const content = item.content ?? item.value ?? (item.tool_calls ? "" : undefined);
    if (typeof role !== "string" || typeof content !== "string") {
      return `message ${index} needs the texts 'role' and 'content'`;
    }
    const { from: _from, value: _value, ...rest } = item;
    messages.push({ ...rest, role: ROLES[role] ?? role, content });
  }
  if (!messages.some((message) => message.role === "assistant")) return "no assistant message to learn from";
  if (!Array.isArray(tools)) return { kind: "chat", messages };
  return { kind: "chat", messages, tools: tools.filter(isFields) };
}
