import { TunesmithError } from "../../errors/index.js";
import type { TokenizerConfig } from "./tokenizer-json.js";

/** What BERT's tokenizer_config.json may say beside the names of tokens. */
export interface WordPieceConfig extends TokenizerConfig {
  readonly do_lower_case?: boolean;
  readonly strip_accents?: boolean | null;
  readonly tokenize_chinese_chars?: boolean;
  readonly cls_token?: TokenizerConfig["bos_token"];
  readonly sep_token?: TokenizerConfig["bos_token"];
  readonly mask_token?: TokenizerConfig["bos_token"];
}

/**
 * The `tokenizer.json` structure of a WordPiece tokenizer kept as `vocab.txt` (BERT, DistilBERT, ELECTRA): one token a
 * line, its id is the line's number from 0. Lower case is the default, as in transformers.
 *
 * Throws `tokenizer-unsupported` when the vocabulary lacks the tokens around a text.
 */
export function jsonFromVocabTxt(text: string, config: WordPieceConfig = {}): object {
  const lines = text.split("\n").map((line) => line.replace(/\r$/, ""));
  if (lines.at(-1) === "") lines.pop();
  const vocab = Object.fromEntries(lines.map((token, id) => [token, id]));
  const named = (token: TokenizerConfig["bos_token"], fallback: string) =>
    (typeof token === "string" ? token : token?.content) ?? fallback;
  const special = {
    unk: named(config.unk_token, "[UNK]"),
    cls: named(config.cls_token, "[CLS]"),
    sep: named(config.sep_token, "[SEP]"),
    pad: named(config.pad_token, "[PAD]"),
    mask: named(config.mask_token, "[MASK]"),
  };
  const idOf = (token: string) => {
    const id = vocab[token];
    if (id !== undefined) return id;
    throw new TunesmithError("tokenizer-unsupported", `vocab.txt has no '${token}'`, {
      fix: "name the special tokens in tokenizer_config.json, or save the tokenizer as tokenizer.json",
    });
  };
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    added_tokens: Object.values(special)
      .filter((content) => vocab[content] !== undefined)
      .map((content) => ({ id: vocab[content], content, ...plain }))
      .sort((a, b) => Number(a.id) - Number(b.id)),
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: config.tokenize_chinese_chars ?? true,
      strip_accents: config.strip_accents ?? null,
      lowercase: config.do_lower_case ?? true,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: aroundTexts(special.cls, special.sep, idOf),
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: special.unk,
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab,
    },
  };
}

function aroundTexts(cls: string, sep: string, idOf: (token: string) => number): object {
  const token = (id: string, type: number) => ({ SpecialToken: { id, type_id: type } });
  const sequence = (id: "A" | "B", type: number) => ({ Sequence: { id, type_id: type } });
  const single = [token(cls, 0), sequence("A", 0), token(sep, 0)];
  const tokens = [cls, sep].map((id) => [id, { id, ids: [idOf(id)], tokens: [id] }]);
  return {
    type: "TemplateProcessing",
    single,
    pair: [...single, sequence("B", 1), token(sep, 1)],
    special_tokens: Object.fromEntries(tokens),
  };
}
