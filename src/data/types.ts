import type { ChatMessage } from "../models/tokenizer/index.js";

/** A part of a conversation: plain text, or messages. */
export type Turns = string | readonly ChatMessage[];

/** A document. */
export interface TextRow {
  readonly kind: "text";
  readonly text: string;
  /** The file it is the whole of. */
  readonly source?: string;
}

/** A prompt and what should follow it. */
export interface CompletionRow {
  readonly kind: "completion";
  readonly prompt: string;
  readonly completion: string;
}

/** A conversation with at least one answer of the assistant. */
export interface ChatRow {
  readonly kind: "chat";
  readonly messages: readonly ChatMessage[];
  /** JSON schemas of functions the assistant may call. */
  readonly tools?: readonly object[];
}

/**
 * Two answers to one prompt, for DPO and its relatives. The three are all text or all messages; `chosen` and `rejected`
 * hold only what follows the prompt.
 */
export interface PreferenceRow {
  readonly kind: "preference";
  readonly prompt: Turns;
  readonly chosen: Turns;
  readonly rejected: Turns;
  readonly tools?: readonly object[];
}

/** One answer with a verdict, for KTO. Prompt and completion are both text or both messages. */
export interface FeedbackRow {
  readonly kind: "feedback";
  readonly prompt: Turns;
  readonly completion: Turns;
  readonly desirable: boolean;
}

/** A text, or two, with a class (a name or a number) or a score. */
export interface ClassificationRow {
  readonly kind: "classification";
  readonly text: string;
  /** The second text of a sentence pair. */
  readonly pair?: string;
  readonly label: string | number;
}

/** Texts that belong together, for sentence embeddings. */
export interface SimilarityRow {
  readonly kind: "similarity";
  readonly anchor: string;
  readonly positive: string;
  /** Texts that do not belong to the anchor; empty for plain pairs. */
  readonly negatives: readonly string[];
}

/** Words with a tag each. */
export interface TagsRow {
  readonly kind: "tags";
  readonly tokens: readonly string[];
  /** As many as there are tokens. */
  readonly tags: readonly (string | number)[];
}

/** A file that is read when it is needed. */
export interface MediaFile {
  /** Path, or archive and path inside. */
  readonly name: string;
  read(): Promise<Uint8Array>;
}

/** An image or sound file and its class. `decodeImage` and `decodeWav` read its bytes. */
export interface MediaRow {
  readonly kind: "image" | "audio";
  readonly file: MediaFile;
  readonly label: string | number;
}

/** A row that a causal language model learns from by itself. */
export type LanguageRow = TextRow | CompletionRow | ChatRow;

/** One training example as it was read. `kind` tells which. */
export type Row = (
  | LanguageRow
  | PreferenceRow
  | FeedbackRow
  | ClassificationRow
  | SimilarityRow
  | TagsRow
  | MediaRow
) & {
  /** Which task it is of, where rows of several are mixed: the field `task`. */
  readonly task?: string;
};

/**
 * How the fields of a row are read:
 *
 * - `text` {text}; `completion` {prompt, completion}; `alpaca` {instruction, input?, output};
 *   `chat` {messages} or ShareGPT's {conversations}, with {tools}
 * - `preference` {prompt?, chosen, rejected}; `feedback` {prompt, completion, label: boolean}
 * - `classification` {text, pair?, label}; `similarity` {anchor, positive, negative?}; `tags` {tokens, tags}
 * - `image` and `audio`: files in a folder or archive, or {image, label}, {audio, label} of Parquet
 */
export const LAYOUTS = [
  "text",
  "completion",
  "alpaca",
  "chat",
  "preference",
  "feedback",
  "classification",
  "similarity",
  "tags",
  "image",
  "audio",
] as const;
export type Layout = (typeof LAYOUTS)[number];

/** A row that was left out: its number (from 1; the line in JSONL) or path, and why. */
export interface DroppedRow {
  readonly row: number | string;
  readonly reason: string;
}

/** A row that was kept, with its number (from 1; the line in JSONL) or path. */
export interface NumberedRow {
  readonly row: number | string;
  readonly value: Row;
  /** The row as it was parsed; absent for media files. */
  readonly raw?: unknown;
}

export interface DatasetReport {
  /** Rows kept. */
  readonly rows: number;
  /** Rows and files left out. */
  readonly dropped: readonly DroppedRow[];
  /** UTF-8 bytes read. */
  readonly bytes: number;
  /** True when `maxBytes` ended the reading of a folder. */
  readonly capped: boolean;
}

/** Which layout rows have, how sure that is, and why. */
export interface LayoutGuess {
  readonly layout: Layout;
  /** Share of the rows looked at that can be read so; lower where names of fields were interpreted. In [0, 1]. */
  readonly confidence: number;
  /** A sentence for people. */
  readonly reason: string;
  /** Names of fields that differ from the layout's own. */
  readonly fields: Readonly<Record<string, string>>;
  /** Layouts that would fit too, the likeliest first. */
  readonly alternatives: readonly Layout[];
}

export interface Dataset {
  readonly name: string;
  readonly layout: Layout;
  readonly rows: readonly Row[];
  readonly report: DatasetReport;
  /** How the layout was found; absent when it was given. */
  readonly guess?: LayoutGuess;
}

/** One example as tokens, at most `maxLength` of them. */
export interface TokenizedExample {
  /** `[tokens]` */
  readonly ids: Int32Array;
  /** `[tokens]`: 1 where the token, given those before it, is trained; always 0 at index 0. */
  readonly lossMask: Uint8Array;
}
