/** Which file a tokenizer was read from. */
export type TokenizerSource =
  | "tokenizer.json"
  | "vocab.json+merges.txt"
  | "vocab.txt"
  | "sentencepiece"
  | "llama2.c";

export interface EncodeOptions {
  /** Adds what the model expects around a text (a beginning-of-sequence token, ...). Default true. */
  readonly addSpecialTokens?: boolean;
  /**
   * The text continues an earlier one: no special tokens are added, and tokenizers that put a space before a
   * text leave it out, so that ids of consecutive pieces can be joined. Default false.
   */
  readonly continuation?: boolean;
}

export interface DecodeOptions {
  /** Leaves out special tokens (beginning, end, padding, chat markers). Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** Turns tokens into text one by one; a character appears once all its bytes are there. */
export interface DecodeStream {
  /** The text that this token completes, often empty for a part of a character. */
  push(id: number): string;
  /** The rest: an incomplete character becomes U+FFFD. */
  end(): string;
}

/** A pair of texts as one row: a question and a passage, two sentences to compare. */
export interface EncodedPair {
  /** `[tokens]` */
  readonly ids: Int32Array;
  /** Which text each token belongs to (`token_type_ids`), `[tokens]`. */
  readonly typeIds: Int32Array;
}

/** A tokenizer. Plain data and closures; safe to share. */
export interface Tokenizer {
  readonly source: TokenizerSource;
  /** One more than the highest id, special tokens included; an embedding needs at least so many rows. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly unkId: number | undefined;
  /** Ids that `skipSpecialTokens` leaves out. */
  readonly specialIds: ReadonlySet<number>;
  /** SHA-256 over everything that decides ids and text, as hexadecimal digits. */
  readonly hash: string;
  /** The Jinja template that lays out a conversation, if the model has one. */
  readonly chatTemplate: string | undefined;
  /** Ids of a text, `[tokens]`. */
  encode(text: string, options?: EncodeOptions): Int32Array;
  /** Ids of two texts, with what the model expects around and between them unless `addSpecialTokens` is false. */
  encodePair(first: string, second: string, options?: Pick<EncodeOptions, "addSpecialTokens">): EncodedPair;
  /** Text of ids. Ids without a token (padding rows of a vocabulary) give nothing. */
  decode(ids: Iterable<number>, options?: DecodeOptions): string;
  decodeStream(options?: DecodeOptions): DecodeStream;
  /** The same tokenizer as the content of a `tokenizer.json`. */
  toJson(): object;
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
}
