import { basename, dirname, fileExists, joinPath, listDir, readFile, readText, stat } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { tokenizerFromLlama2c } from "./llama2c.js";
import { tokenizerFromSentencePiece } from "./sentencepiece.js";
import { type TokenizerConfig, tokenizerFromJson } from "./tokenizer-json.js";
import type { Tokenizer } from "./types.js";
import { jsonFromVocabMerges } from "./vocab-merges.js";
import { jsonFromVocabTxt } from "./wordpiece.js";

const SENTENCEPIECE_NAMES = ["tokenizer.model", "spiece.model"];
/** XLM-RoBERTa, CamemBERT, mBART and NLLB number these pieces in ways of their own, which the file does not tell. */
const RENUMBERED = "sentencepiece.bpe.model";
/** llama2.c names its files tokenizer.bin, or tok512.bin after the size of the vocabulary. */
const LLAMA2C_NAME = /^tok(enizer)?\d*\.bin$/;

/**
 * Loads the tokenizer of a model folder, or a tokenizer file. In a folder the first of these wins:
 * `tokenizer.json`, a SentencePiece `tokenizer.model` / `spiece.model`, `vocab.json` with `merges.txt`, BERT's `vocab.txt`,
 * a llama2.c `tokenizer.bin` / `tok<N>.bin`. Beside it `tokenizer_config.json`, `special_tokens_map.json` and
 * `chat_template.jinja` / `chat_template.json` are read when present.
 *
 * Throws `tokenizer-unsupported` when none is there, listing what was looked for; `file-not-found` for a path
 * that does not exist; `file-corrupt` for a damaged file.
 *
 * @example
 * ```ts
 * import { loadTokenizer } from "tunesmith/models";
 * const tokenizer = await loadTokenizer("path/to/model");
 * const ids = tokenizer.encode("Once upon a time");
 * const text = tokenizer.decode(ids, { skipSpecialTokens: true });
 * ```
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const info = await stat(path);
  const folder = info.isDirectory ? path : dirname(path);
  const names = info.isDirectory ? await listDir(path) : [basename(path)];
  const has = (name: string) => names.includes(name);
  const config = await readConfig(folder);
  if (has("tokenizer.json")) {
    return tokenizerFromJson(await readJson(joinPath(folder, "tokenizer.json")), config);
  }
  const sentencePiece = info.isDirectory
    ? SENTENCEPIECE_NAMES.find(has)
    : names.find((name) => name.endsWith(".model") && name !== RENUMBERED);
  if (sentencePiece) {
    const file = joinPath(folder, sentencePiece);
    return tokenizerFromSentencePiece(await readFile(file), config, file);
  }
  if (has(RENUMBERED)) {
    throw new TunesmithError(
      "tokenizer-unsupported",
      `${joinPath(folder, RENUMBERED)}: the ids of its pieces differ from model to model`,
      {
        fix: "save the tokenizer as tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained in Python)",
      },
    );
  }
  const vocabMerges = info.isDirectory
    ? has("vocab.json") && has("merges.txt")
    : has("vocab.json") || has("merges.txt");
  if (vocabMerges) return fromVocabMerges(folder, config);
  if (has("vocab.txt")) {
    const json = jsonFromVocabTxt(await readText(joinPath(folder, "vocab.txt")), config);
    return tokenizerFromJson(json, config, "vocab.txt");
  }
  const llama2c = names.filter((name) =>
    info.isDirectory ? LLAMA2C_NAME.test(name) : name.endsWith(".bin"),
  );
  if (llama2c.length > 1) {
    throw new TunesmithError(
      "tokenizer-unsupported",
      `${folder} holds ${llama2c.length} llama2.c tokenizers: ${llama2c.join(", ")}`,
      { fix: "give the path of the one that belongs to the model", details: { found: llama2c } },
    );
  }
  const file = llama2c[0];
  if (file) return tokenizerFromLlama2c(await readFile(joinPath(folder, file)), joinPath(folder, file));
  return notFound(path, names, info.isDirectory);
}

/** As `loadTokenizer`, or undefined for a folder that holds no tokenizer at all. */
export async function findTokenizer(folder: string): Promise<Tokenizer | undefined> {
  try {
    return await loadTokenizer(folder);
  } catch (error) {
    if (
      error instanceof TunesmithError &&
      error.code === "tokenizer-unsupported" &&
      "looked" in error.details
    )
      return undefined;
    throw error;
  }
}

function notFound(path: string, names: string[], isDirectory: boolean): never {
  const looked = [
    "tokenizer.json",
    ...SENTENCEPIECE_NAMES,
    "vocab.json + merges.txt",
    "vocab.txt",
    "tokenizer.bin, tok<N>.bin",
  ];
  throw new TunesmithError(
    "tokenizer-unsupported",
    isDirectory
      ? `${path} holds no tokenizer: looked for ${looked.join("; ")}; found ${names.slice(0, 20).join(", ") || "nothing"}`
      : `${path} is not a tokenizer file: known are ${looked.join("; ")}`,
    { fix: "put the tokenizer files of the model into the folder", details: { looked, found: names } },
  );
}

async function fromVocabMerges(folder: string, config: TokenizerConfig): Promise<Tokenizer> {
  const added = await readJsonIfThere(joinPath(folder, "added_tokens.json"));
  const json = jsonFromVocabMerges(
    (await readJson(joinPath(folder, "vocab.json"))) as Record<string, number>,
    await readText(joinPath(folder, "merges.txt")),
    config,
    (added ?? {}) as Record<string, number>,
  );
  return tokenizerFromJson(json, config, "vocab.json+merges.txt");
}

async function readConfig(folder: string): Promise<TokenizerConfig> {
  const map = await readJsonIfThere(joinPath(folder, "special_tokens_map.json"));
  const config = await readJsonIfThere(joinPath(folder, "tokenizer_config.json"));
  // Newer exports keep the template in a file of its own.
  const wrapped = await readJsonIfThere(joinPath(folder, "chat_template.json"));
  const merged = { ...map, ...config, ...wrapped } as TokenizerConfig;
  const template = joinPath(folder, "chat_template.jinja");
  return (await fileExists(template)) ? { ...merged, chat_template: await readText(template) } : merged;
}

async function readJsonIfThere(path: string): Promise<object | undefined> {
  return (await fileExists(path)) ? readJson(path) : undefined;
}

async function readJson(path: string): Promise<object> {
  const text = await readText(path);
  try {
    const value: unknown = JSON.parse(text);
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${path} is not JSON: ${(cause as Error).message}`, {
      fix: "download the file again",
      cause,
    });
  }
  throw new TunesmithError("file-corrupt", `${path} holds no JSON object`, {
    fix: "download the file again",
  });
}
