import { Tokenizer as JsonTokenizer } from "@huggingface/tokenizers";
import { sha256 } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { exactPreTokenizer, type Part, withoutPrefix } from "./compat.js";
import { exactNormalizer } from "./normalizer.js";
import { streamDecoder } from "./stream.js";
import type { EncodedPair, Tokenizer, TokenizerSource } from "./types.js";
import { wordCachedEncoder } from "./word-cache.js";

/** What we call of the library; its type files do not resolve under Node's module rules. */
interface Engine {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[]; tokens: string[] };
  decode(ids: number[], options: { clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_vocab(): Map<string | undefined, number>;
  get_added_tokens_decoder(): Map<number, { content: string; special: boolean }>;
  decoder: unknown;
  normalizer: ((text: string) => string) | null;
  readonly post_processor:
    | ((tokens: string[], pair: string[], addSpecialTokens: boolean) => Processed)
    | null;
}
interface Processed {
  readonly tokens: string[];
  /** From processors that leave joining to the caller. */
  readonly tokens_pair?: string[];
  readonly token_type_ids?: number[];
}
const EngineClass = JsonTokenizer as unknown as new (json: Part, config: TokenizerConfig) => Engine;

/** A token outside the trained vocabulary. */
export interface AddedToken {
  content: string;
  special?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
  normalized?: boolean;
  single_word?: boolean;
}

/** The contents of tokenizer_config.json (and special_tokens_map.json) that matter here. */
export interface TokenizerConfig {
  bos_token?: string | { content: string } | null;
  eos_token?: string | { content: string } | null;
  pad_token?: string | { content: string } | null;
  unk_token?: string | { content: string } | null;
  additional_special_tokens?: (string | { content: string })[] | null;
  chat_template?: string | { name: string; template: string }[] | null;
  tokenizer_class?: string | null;
  add_bos_token?: boolean;
  add_eos_token?: boolean;
  add_prefix_space?: boolean;
  added_tokens_decoder?: Record<string, AddedToken>;
}

/**
 * A tokenizer from the contents of a `tokenizer.json`, run by `@huggingface/tokenizers`. Spaces around punctuation
 * are never "cleaned up" on decoding, so that byte-level text comes back as it was.
 *
 * @param json The parsed file.
 * @param config `tokenizer_config.json`: names the beginning, end, padding and unknown tokens and the template.
 * Throws `tokenizer-unsupported` when a part of the file is not known.
 *
 * @example
 * ```ts
 * import { trainBpe } from "tunesmith/data";
 * import { tokenizerFromJson } from "tunesmith/models";
 * const json = trainBpe(["low lower lowest"], { vocabSize: 300 });
 * const tokenizer = await tokenizerFromJson(json, { eos_token: "<|endoftext|>" });
 * const ids = tokenizer.encode("lower"); // Int32Array, [tokens]
 * ```
 */
export async function tokenizerFromJson(
  json: object,
  config: TokenizerConfig = {},
  source: TokenizerSource = "tokenizer.json",
): Promise<Tokenizer> {
  const exact = prepare(json as Part);
  const engine = build(exact, config);
  const prefixless = withoutPrefix(exact);
  let continuing: Engine | undefined = prefixless === exact ? engine : undefined;
  const specialIds = findSpecialIds(engine, config);
  const byteIds = unigramByteIds(exact, engine);
  const cached = wordCachedEncoder(
    json as Part,
    (word) => engine.encode(word, { add_special_tokens: false }).ids,
  );
  const decode = (ids: number[]) =>
    ids.length === 0 ? "" : engine.decode(ids, { clean_up_tokenization_spaces: false });
  const known = (id: number) => engine.id_to_token(id) !== undefined;
  const idOf = (token: TokenizerConfig["bos_token"]) =>
    token ? engine.token_to_id(textOf(token)) : undefined;
  const bosId = idOf(config.bos_token);
  const eosId = idOf(config.eos_token);
  const chatTemplate = defaultTemplate(config);
  const text = JSON.stringify([json, bosId, eosId, chatTemplate ?? null]);
  return {
    source,
    vocabSize: highestId(engine) + 1,
    bosId,
    eosId,
    padId: idOf(config.pad_token),
    unkId: idOf(config.unk_token) ?? unknownId(exact, engine),
    specialIds,
    hash: await sha256(new TextEncoder().encode(text)),
    chatTemplate,
    encode(text, { addSpecialTokens = true, continuation = false } = {}) {
      if (cached) return Int32Array.from(cached(text));
      if (continuation) continuing ??= build(prefixless, config);
      const chosen = continuation && continuing ? continuing : engine;
      const { ids, tokens } = chosen.encode(text, {
        add_special_tokens: addSpecialTokens && !continuation,
      });
      const full = byteIds ? expandUnknown(chosen, ids, tokens, byteIds) : ids;
      return Int32Array.from(full.filter((id) => id !== undefined));
    },
    encodePair: (first, second, { addSpecialTokens = true } = {}) =>
      encodePair(engine, [first, second], addSpecialTokens, byteIds),
    decode(ids, { skipSpecialTokens = false } = {}) {
      return decode([...ids].filter((id) => known(id) && !(skipSpecialTokens && specialIds.has(id))));
    },
    decodeStream({ skipSpecialTokens = false } = {}) {
      return streamDecoder((ids) => decode(ids.filter(known)), skipSpecialTokens ? specialIds : new Set());
    },
    toJson: () => json,
    tokenToId: (token) => engine.token_to_id(token),
    idToToken: (id) => engine.id_to_token(id),
  };
}

/** The library's own way joins no pair for byte-level tokenizers, and takes an empty second text for none. */
function encodePair(
  engine: Engine,
  texts: readonly [string, string],
  addSpecialTokens: boolean,
  byteIds: Int32Array | undefined,
): EncodedPair {
  const [a, b] = texts.map((text) => textTokens(engine, text)) as [string[], string[]];
  const processed: Processed = engine.post_processor?.(a, b, addSpecialTokens) ?? {
    tokens: a,
    tokens_pair: b,
  };
  const tokens = [...processed.tokens, ...(processed.tokens_pair ?? [])];
  const types = processed.token_type_ids ?? tokens.map((_, at) => (at < a.length ? 0 : 1));
  const unknown = engine.token_to_id(String((engine as { model?: { unk_token?: string } }).model?.unk_token));
  const ids: number[] = [];
  const typeIds: number[] = [];
  tokens.forEach((token, at) => {
    const id = engine.token_to_id(token) ?? unknown;
    if (id === undefined) return;
    for (const each of byteIds ? expandUnknown(engine, [id], [token], byteIds) : [id]) {
      ids.push(each);
      typeIds.push(types[at] ?? 0);
    }
  });
  return { ids: Int32Array.from(ids), typeIds: Int32Array.from(typeIds) };
}

const textTokens = (engine: Engine, text: string): string[] =>
  text === "" ? [] : engine.encode(text, { add_special_tokens: false }).tokens;

function textOf(token: string | { content: string }): string {
  return typeof token === "string" ? token : token.content;
}

function highestId(engine: Engine): number {
  let highest = -1;
  for (const [token, id] of engine.get_vocab()) if (token !== undefined && id > highest) highest = id;
  return highest;
}

/** Fills in the optional members and replaces the steps that the library runs differently. */
function prepare(json: Part): Part {
  const model = json.model as Part | undefined;
  if (!model || typeof model !== "object" || !model.vocab) {
    throw new TunesmithError("tokenizer-unsupported", "tokenizer.json: 'model.vocab' is missing", {
      fix: "check that the file is a Hugging Face tokenizer.json",
    });
  }
  if (model.type === "BPE" && model.continuing_subword_prefix) {
    throw new TunesmithError(
      "tokenizer-unsupported",
      `tokenizer.json: BPE with continuing_subword_prefix '${model.continuing_subword_prefix}' is not supported`,
      { fix: "use a tokenizer without that prefix" },
    );
  }
  const normalizer = (json.normalizer as Part | null) ?? null;
  return {
    ...json,
    added_tokens: json.added_tokens ?? [],
    normalizer,
    pre_tokenizer: exactPreTokenizer((json.pre_tokenizer as Part | null) ?? null, normalizer),
    post_processor: json.post_processor ?? null,
    decoder: json.decoder ?? null,
  };
}

function build(json: Part, config: TokenizerConfig): Engine {
  try {
    const extra = (config.additional_special_tokens ?? []).map(textOf);
    const eos = config.eos_token ? textOf(config.eos_token) : undefined;
    const engine = new EngineClass(json, { additional_special_tokens: extra, eos_token: eos });
    keepByteOrderMarks(engine.decoder);
    engine.normalizer =
      exactNormalizer(json.normalizer as Part | null, engine.normalizer) ?? engine.normalizer;
    return engine;
  } catch (cause) {
    throw new TunesmithError(
      "tokenizer-unsupported",
      `tokenizer.json cannot be used: ${cause instanceof Error ? cause.message : String(cause)}`,
      { fix: "use a tokenizer made of the usual parts (BPE, Unigram or WordPiece)", cause },
    );
  }
}

/** The library's byte-fallback decoder drops U+FEFF at the start of a run of bytes; its text decoder is public. */
function keepByteOrderMarks(decoder: unknown): void {
  const part = decoder as { text_decoder?: TextDecoder; decoders?: unknown[] } | null;
  if (part?.text_decoder) part.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for (const inner of part?.decoders ?? []) keepByteOrderMarks(inner);
}

function findSpecialIds(engine: Engine, config: TokenizerConfig): Set<number> {
  const ids = new Set<number>();
  for (const [id, token] of engine.get_added_tokens_decoder()) if (token.special) ids.add(id);
  const named = [config.bos_token, config.eos_token, config.pad_token, config.unk_token];
  for (const token of [...named, ...(config.additional_special_tokens ?? [])]) {
    const id = token ? engine.token_to_id(textOf(token)) : undefined;
    if (id !== undefined) ids.add(id);
  }
  return ids;
}

function unknownId(json: Part, engine: Engine): number | undefined {
  const model = json.model as { unk_token?: string | null; unk_id?: number | null };
  if (typeof model.unk_id === "number") return model.unk_id;
  return model.unk_token ? engine.token_to_id(model.unk_token) : undefined;
}

function defaultTemplate(config: TokenizerConfig): string | undefined {
  const template = config.chat_template;
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return undefined;
  return (template.find((item) => item.name === "default") ?? template[0])?.template;
}

/** Ids of `<0x00>`..`<0xFF>` for a Unigram model with byte fallback, which the library does not do. */
function unigramByteIds(json: Part, engine: Engine): Int32Array | undefined {
  const model = json.model as Part;
  if (model.type !== "Unigram" || !model.byte_fallback) return undefined;
  const ids = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    const id = engine.token_to_id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    if (id === undefined) return undefined;
    ids[byte] = id;
  }
  return ids;
}

/** An unknown piece keeps its own text, which is then not in the vocabulary: its bytes replace it. */
function expandUnknown(engine: Engine, ids: number[], tokens: string[], byteIds: Int32Array): number[] {
  return ids.flatMap((id, index) => {
    const token = tokens[index] ?? "";
    if (engine.token_to_id(token) !== undefined) return id;
    return Array.from(new TextEncoder().encode(token), (byte) => byteIds[byte] ?? id);
  });
}
