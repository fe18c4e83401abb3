import type { ChatMessage } from "../models/tokenizer/index.js";

/** One training example as text. */
export type Row =
  | { readonly kind: "text"; readonly text: string; readonly source?: string }
  | { readonly kind: "completion"; readonly prompt: string; readonly completion: string }
  | { readonly kind: "chat"; readonly messages: readonly ChatMessage[]; readonly tools?: readonly object[] };

/**
 * How the fields of a row are read: `text` {text}, `completion` {prompt, completion}, `chat` {messages} or ShareGPT's
 * {conversations}, `alpaca` {instruction, input?, output}.
 */
export type Layout = "text" | "completion" | "chat" | "alpaca";

/** A row that was left out: its number (from 1; the line in JSONL) or path, and why. */
export interface DroppedRow {
  readonly row: number | string;
  readonly reason: string;
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

export interface Dataset {
  readonly name: string;
  readonly layout: Layout;
  readonly rows: readonly Row[];
  readonly report: DatasetReport;
}

/** One example as tokens, at most `maxLength` of them. */
export interface TokenizedExample {
  /** `[tokens]` */
  readonly ids: Int32Array;
  /** `[tokens]`: 1 where the token, given those before it, is trained; always 0 at index 0. */
  readonly lossMask: Uint8Array;
}
