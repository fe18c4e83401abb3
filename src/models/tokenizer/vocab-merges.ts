import { TunesmithError } from "../../errors/index.js";
import type { AddedToken, TokenizerConfig } from "./tokenizer-json.js";

const QWEN2_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/**
 * The `tokenizer.json` structure of a byte-level BPE tokenizer kept as `vocab.json` and `merges.txt` (GPT-2,
 * RoBERTa, BART, Qwen2).
 *
 * @param vocab Token to id, the parsed vocab.json.
 * @param merges Text of merges.txt, best merge first.
 * @param added Tokens outside the vocabulary by id (`added_tokens.json`).
 * Throws `tokenizer-unsupported` when `config.tokenizer_class` is not one of those families.
 */
export function jsonFromVocabMerges(
  vocab: Record<string, number>,
  merges: string,
  config: TokenizerConfig = {},
  added: Record<string, number> = {},
): object {
  const family = (config.tokenizer_class ?? "GPT2Tokenizer").replace(/Tokenizer(Fast)?$/, "");
  if (!["GPT2", "Roberta", "Bart", "Qwen2", "PreTrained", "Tokenizers"].includes(family)) {
    throw new TunesmithError(
      "tokenizer-unsupported",
      `vocab.json + merges.txt of a '${config.tokenizer_class}' cannot be read`,
      {
        fix: "save the tokenizer as tokenizer.json (tokenizer.save_pretrained in Python)",
        details: { family },
      },
    );
  }
  const addPrefixSpace = config.add_prefix_space ?? false;
  const byteLevel = { type: "ByteLevel", add_prefix_space: addPrefixSpace, trim_offsets: true };
  const qwen = family === "Qwen2";
  const lines = merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version"));
  return {
    version: "1.0",
    added_tokens: addedTokens(vocab, config, added),
    normalizer: qwen ? { type: "NFC" } : null,
    pre_tokenizer: qwen
      ? {
          type: "Sequence",
          pretokenizers: [
            { type: "Split", pattern: { Regex: QWEN2_PATTERN }, behavior: "Isolated", invert: false },
            { ...byteLevel, use_regex: false },
          ],
        }
      : { ...byteLevel, use_regex: true },
    post_processor: postProcessor(family, vocab, config),
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: "BPE",
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: lines.map((line) => line.split(" ", 2)),
    },
  };
}

function textOf(token: TokenizerConfig["bos_token"]): string | undefined {
  return typeof token === "string" ? token : token?.content;
}

function addedTokens(
  vocab: Record<string, number>,
  config: TokenizerConfig,
  added: Record<string, number>,
): object[] {
  const tokens = new Map<number, AddedToken>();
  const special = [config.bos_token, config.eos_token, config.pad_token, config.unk_token];
  const names = new Set([...special, ...(config.additional_special_tokens ?? [])].map(textOf));
  for (const [content, id] of Object.entries(added)) tokens.set(id, { content, special: names.has(content) });
  for (const name of names) {
    const id = name === undefined ? undefined : (vocab[name] ?? added[name]);
    if (name !== undefined && id !== undefined) tokens.set(id, { content: name, special: true });
  }
  for (const [id, token] of Object.entries(config.added_tokens_decoder ?? {})) tokens.set(Number(id), token);
  return [...tokens]
    .sort(([a], [b]) => a - b)
    .map(([id, token]) => ({
      id,
      content: token.content,
      single_word: token.single_word ?? false,
      lstrip: token.lstrip ?? false,
      rstrip: token.rstrip ?? false,
      normalized: token.normalized ?? false,
      special: token.special ?? false,
    }));
}

function postProcessor(family: string, vocab: Record<string, number>, config: TokenizerConfig): object {
  if (family !== "Roberta" && family !== "Bart") return { type: "ByteLevel", trim_offsets: false };
  const cls = textOf(config.bos_token) ?? "<s>";
  const sep = textOf(config.eos_token) ?? "</s>";
  return { type: "RobertaProcessing", cls: [cls, vocab[cls] ?? 0], sep: [sep, vocab[sep] ?? 2] };
}
