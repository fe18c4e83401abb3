import type { Layout, MediaRow, Row, TagsRow } from "../types.js";
import { readMessages, readTools } from "./chat.js";
import { type FieldName, type FieldNames, type Fields, isFields } from "./fields.js";
import { readFeedback, readPreference } from "./pairs.js";

/** Reads a row, or says in a string why it cannot be used. */
export function readRow(value: unknown, layout: Layout, fields: FieldNames): Row | string {
  if (!isFields(value)) return "not an object";
  const row = READERS[layout](value, fields);
  const { task } = value;
  return typeof task === "string" && typeof row !== "string" ? { ...row, task } : row;
}

type Reader = (value: Fields, fields: FieldNames) => Row | string;

const READERS: Readonly<Record<Layout, Reader>> = {
  text: (value, fields) => {
    const text = textIn(value, "text", fields);
    return isWrong(text) ? text.wrong : { kind: "text", text };
  },
  completion: (value, fields) => {
    const completion = textIn(value, "completion", fields);
    const prompt = textIn(value, "prompt", fields, true);
    if (isWrong(completion)) return completion.wrong;
    return isWrong(prompt) ? prompt.wrong : { kind: "completion", prompt, completion };
  },
  alpaca: (value, fields) => {
    const instruction = textIn(value, "instruction", fields);
    const output = textIn(value, "output", fields);
    const input = value[fields.input ?? "input"] == null ? "" : textIn(value, "input", fields, true);
    if (isWrong(instruction)) return instruction.wrong;
    if (isWrong(output)) return output.wrong;
    if (isWrong(input)) return input.wrong;
    return { kind: "completion", prompt: alpacaPrompt(instruction, input), completion: output };
  },
  chat: (value, fields) => {
    const messages = readMessages(value[fields.messages ?? "messages"] ?? value.conversations, "messages");
    if (typeof messages === "string") return messages;
    const tools = readTools(value[fields.tools ?? "tools"]);
    if (typeof tools === "string") return tools;
    if (!messages.some(({ role }) => role === "assistant")) return "no assistant message to learn from";
    return { kind: "chat", messages, ...(tools ? { tools } : {}) };
  },
  preference: readPreference,
  feedback: readFeedback,
  classification: (value, fields) => {
    const text = textIn(value, "text", fields);
    const pair = value[fields.pair ?? "pair"] === undefined ? undefined : textIn(value, "pair", fields);
    const label = labelIn(value, fields);
    if (isWrong(text)) return text.wrong;
    if (isWrong(pair)) return pair.wrong;
    if (isWrong(label)) return label.wrong;
    return { kind: "classification", text, ...(pair === undefined ? {} : { pair }), label };
  },
  similarity: (value, fields) => {
    const anchor = textIn(value, "anchor", fields);
    const positive = textIn(value, "positive", fields);
    const negative = value[fields.negative ?? "negative"] ?? [];
    if (isWrong(anchor)) return anchor.wrong;
    if (isWrong(positive)) return positive.wrong;
    const negatives = typeof negative === "string" ? [negative] : negative;
    if (!isTexts(negatives))
      return `field '${fields.negative ?? "negative"}' is not a text or a list of texts`;
    return { kind: "similarity", anchor, positive, negatives };
  },
  tags: readTags,
  image: (value, fields) => readMedia(value, "image", fields),
  audio: (value, fields) => readMedia(value, "audio", fields),
};

/** The prompt that Stanford Alpaca's models were trained with. */
export function alpacaPrompt(instruction: string, input = ""): string {
  const paired = input.trim() !== "";
  const head = `Below is an instruction that describes a task${paired ? ", paired with an input that provides further context" : ""}. Write a response that appropriately completes the request.`;
  const context = paired ? `### Input:\n${input}\n\n` : "";
  return `${head}\n\n### Instruction:\n${instruction}\n\n${context}### Response:\n`;
}

interface Wrong {
  readonly wrong: string;
}
const isWrong = (value: unknown): value is Wrong =>
  typeof value === "object" && value !== null && "wrong" in value;

const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((item) => typeof item === "string");

function textIn(value: Fields, name: FieldName, fields: FieldNames, mayBeEmpty = false): string | Wrong {
  const label = fields[name] ?? name;
  const text = value[label];
  if (text === undefined || text === null) return { wrong: `no field '${label}'` };
  if (typeof text !== "string") return { wrong: `field '${label}' is not a text` };
  if (!mayBeEmpty && text.trim() === "") return { wrong: `field '${label}' is empty` };
  return text;
}

/** A class name or number; Parquet's 64-bit integers become numbers, truth values 0 and 1. */
function labelIn(value: Fields, fields: FieldNames): string | number | Wrong {
  const name = fields.label ?? "label";
  const label = value[name];
  if (label === undefined || label === null || label === "") return { wrong: `no field '${name}'` };
  if (typeof label === "string") return label;
  if (typeof label === "boolean" || typeof label === "bigint") return Number(label);
  if (typeof label === "number" && Number.isFinite(label)) return label;
  return { wrong: `field '${name}' is neither a name nor a number` };
}

function readTags(value: Fields, fields: FieldNames): TagsRow | string {
  const [tokensName, tagsName] = [fields.tokens ?? "tokens", fields.tags ?? "tags"];
  const tokens = value[tokensName];
  const tags = value[tagsName];
  if (!isTexts(tokens) || tokens.length === 0) return `field '${tokensName}' is not a list of words`;
  if (!Array.isArray(tags)) return `field '${tagsName}' is not a list of tags`;
  if (tags.length !== tokens.length) return `${tokens.length} tokens have ${tags.length} tags`;
  const plain = tags.map((tag) => (typeof tag === "bigint" ? Number(tag) : tag) as unknown);
  const usable = plain.every((tag) => typeof tag === "string" || typeof tag === "number");
  return usable
    ? { kind: "tags", tokens, tags: plain as (string | number)[] }
    : `field '${tagsName}' holds something that is neither a name nor a number`;
}

/** A file inside a row, as Hugging Face datasets keep them: {bytes, path}. */
function readMedia(value: Fields, kind: "image" | "audio", fields: FieldNames): MediaRow | string {
  const name = fields[kind] ?? kind;
  const cell = value[name];
  const bytes = isFields(cell) ? cell.bytes : cell;
  if (!(bytes instanceof Uint8Array) || bytes.length === 0) return `field '${name}' holds no bytes of a file`;
  const label = labelIn(value, fields);
  if (isWrong(label)) return label.wrong;
  const path = isFields(cell) && typeof cell.path === "string" ? cell.path : name;
  return { kind, file: { name: path, read: async () => bytes }, label };
}
