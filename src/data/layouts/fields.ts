/** Names of fields as this library calls them. */
export const FIELD_NAMES = [
  "text",
  "pair",
  "label",
  "prompt",
  "completion",
  "messages",
  "tools",
  "instruction",
  "input",
  "output",
  "chosen",
  "rejected",
  "anchor",
  "positive",
  "negative",
  "tokens",
  "tags",
  "image",
  "audio",
] as const;
export type FieldName = (typeof FIELD_NAMES)[number];

/** Names of the fields to read instead of the layout's own, for example `{ prompt: "question" }`. */
export type FieldNames = Readonly<Partial<Record<FieldName, string>>>;

export type Fields = Readonly<Record<string, unknown>>;

/**
 * What published datasets call the fields, tried in this order when a layout's own names are not there. Two texts of a
 * pair are named together, because a single one of those names means something else.
 */
export const ALIASES: Readonly<Partial<Record<FieldName, readonly string[]>>> = {
  text: ["sentence", "content", "document", "utterance"],
  label: ["labels", "category", "class", "intent", "sentiment"],
  prompt: ["question", "query", "problem", "input", "mr"],
  completion: ["answer", "response", "output", "solution", "ref", "target"],
  messages: ["conversations", "conversation", "dialog"],
  anchor: ["query", "question"],
  positive: ["pos", "positive_passage"],
  negative: ["neg", "negatives", "negative_passage"],
  tokens: ["words"],
  tags: ["ner_tags", "pos_tags", "upos", "labels"],
  image: ["img"],
};

/** Fields that hold the two texts of a sentence pair. */
export const PAIRS: readonly (readonly [string, string])[] = [
  ["text", "pair"],
  ["text", "text_pair"],
  ["sentence1", "sentence2"],
  ["premise", "hypothesis"],
  ["question1", "question2"],
  ["text1", "text2"],
  ["question", "sentence"],
];

export function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
