import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { sha256 } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { charsmapNormalizer } from "./charsmap.js";
import type { Piece, PieceKind } from "./piece-model.js";
import { pieceTokenizer } from "./piece-tokenizer.js";
import type { TokenizerConfig } from "./tokenizer-json.js";
import type { Tokenizer } from "./types.js";

/** U+2581, which pieces write for a space. */
const SPACE = "\u2581";
const KINDS: readonly (PieceKind | undefined)[] = [
  undefined,
  "normal",
  "unknown",
  "control",
  "user-defined",
  "unused",
  "byte",
];
const ALGORITHMS: readonly (string | undefined)[] = [undefined, "unigram", "bpe", "word", "char"];

interface ModelFile {
  pieces: Piece[];
  algorithm: number;
  charsmap: Uint8Array;
  dummyPrefix: boolean;
  removeExtraSpaces: boolean;
  escapeSpaces: boolean;
  spaceAsSuffix: boolean;
}

/**
 * A tokenizer from a SentencePiece model (`tokenizer.model`, `spiece.model`): unigram and BPE, byte fallback, and
 * the compiled normalisation rules. Control and user-defined tokens written out in a text are recognised, as
 * `transformers` does.
 *
 * @param config `tokenizer_config.json`, for `add_bos_token`, `add_eos_token`, the chat template and names.
 * @param name Names the file in errors.
 * Throws `file-corrupt` for a damaged file, `tokenizer-unsupported` for word and character models.
 */
export async function tokenizerFromSentencePiece(
  bytes: Uint8Array,
  config: TokenizerConfig = {},
  name = "tokenizer.model",
): Promise<Tokenizer> {
  const file = parse(bytes, name);
  const algorithm = ALGORITHMS[file.algorithm];
  if ((algorithm !== "bpe" && algorithm !== "unigram") || file.spaceAsSuffix || !file.escapeSpaces) {
    const what = file.spaceAsSuffix ? "spaces as suffixes" : `model type '${algorithm ?? file.algorithm}'`;
    throw new TunesmithError(
      "tokenizer-unsupported",
      `${name}: SentencePiece with ${what} is not supported`,
      {
        fix: "use a unigram or BPE model with the default handling of spaces",
      },
    );
  }
  addTokens(file.pieces, config);
  const find = (text: string | undefined, kinds: PieceKind[]) => {
    const id =
      text === undefined ? -1 : file.pieces.findIndex((p) => p.text === text && kinds.includes(p.kind));
    return id < 0 ? undefined : id;
  };
  const named = (token: TokenizerConfig["bos_token"], fallback: string) => {
    const text = token ? (typeof token === "string" ? token : token.content) : fallback;
    return find(text, ["control", "user-defined", "unknown"]);
  };
  const unkId = file.pieces.findIndex((p) => p.kind === "unknown");
  const inText = new Map<string, number>();
  file.pieces.forEach((p, id) => {
    if (p.kind === "control" || p.kind === "user-defined") inText.set(p.text, id);
  });
  const chatTemplate = typeof config.chat_template === "string" ? config.chat_template : undefined;
  const bosId = named(config.bos_token, "<s>");
  const settings = [
    bosId ?? null,
    config.add_bos_token ?? null,
    config.add_eos_token ?? null,
    chatTemplate ?? null,
  ];
  return pieceTokenizer({
    source: "sentencepiece",
    hash: await sha256([bytes, new TextEncoder().encode(JSON.stringify(settings))]),
    model: { pieces: file.pieces, algorithm, unkId: unkId < 0 ? undefined : unkId },
    space: SPACE,
    normalize: charsmapNormalizer(file.charsmap, name),
    removeExtraSpaces: file.removeExtraSpaces,
    dummyPrefix: file.dummyPrefix,
    inText,
    bosId,
    eosId: named(config.eos_token, "</s>"),
    padId: named(config.pad_token, "<pad>"),
    addBos: config.add_bos_token !== false && bosId !== undefined,
    // T5's tokenizer ends every text, whatever its configuration says.
    addEos: config.add_eos_token ?? /^T5/.test(config.tokenizer_class ?? ""),
    chatTemplate,
    charsmap: file.charsmap,
  });
}

/** Tokens added after training, which only `added_tokens_decoder` of tokenizer_config.json lists. */
function addTokens(pieces: Piece[], config: TokenizerConfig): void {
  const added = Object.entries(config.added_tokens_decoder ?? {})
    .map(([id, token]) => ({ id: Number(id), ...token }))
    .sort((a, b) => a.id - b.id);
  for (const { id, content, special } of added) {
    // Ids follow one another; a gap can only come from a damaged file and is left out.
    if (id === pieces.length) {
      pieces.push({ text: content, score: 0, kind: special ? "control" : "user-defined" });
    }
  }
}

function parse(bytes: Uint8Array, name: string): ModelFile {
  const file: ModelFile = {
    pieces: [],
    algorithm: 1,
    charsmap: new Uint8Array(0),
    dummyPrefix: true,
    removeExtraSpaces: true,
    escapeSpaces: true,
    spaceAsSuffix: false,
  };
  try {
    eachField(bytes, (field, reader, type) => {
      const nested = type === WireType.LengthDelimited && field <= 3 ? reader.bytes() : undefined;
      if (field === 1 && nested) file.pieces.push(parsePiece(nested));
      else if (field === 2 && nested) parseTrainer(nested, file);
      else if (field === 3 && nested) parseNormalizer(nested, file);
      else if (!nested) reader.skip(type, field);
    });
  } catch (cause) {
    throw corrupt(name, cause instanceof Error ? cause.message : String(cause));
  }
  if (file.pieces.length === 0) throw corrupt(name, "it holds no pieces");
  return file;
}

function corrupt(name: string, why: string): TunesmithError {
  return new TunesmithError("file-corrupt", `${name} is not a SentencePiece model: ${why}`, {
    fix: "check that the file is a SentencePiece .model and copy it again",
  });
}

function eachField(
  bytes: Uint8Array,
  visit: (field: number, reader: BinaryReader, type: WireType) => void,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    visit(field, reader, type);
  }
}

/** sentencepiece_model.proto, message SentencePiece. */
function parsePiece(bytes: Uint8Array): Piece {
  let text = "";
  let score = 0;
  let kind: PieceKind | undefined = "normal";
  eachField(bytes, (field, reader, type) => {
    if (field === 1) text = reader.string();
    else if (field === 2) score = reader.float();
    else if (field === 3) kind = KINDS[reader.int32()];
    else reader.skip(type, field);
  });
  return { text, score, kind: kind ?? "unused" };
}

/** message TrainerSpec: the fields that change how text is cut. */
function parseTrainer(bytes: Uint8Array, file: ModelFile): void {
  eachField(bytes, (field, reader, type) => {
    if (field === 3) file.algorithm = reader.int32();
    else if (field === 24) file.spaceAsSuffix = reader.bool();
    else reader.skip(type, field);
  });
}

/** message NormalizerSpec. */
function parseNormalizer(bytes: Uint8Array, file: ModelFile): void {
  eachField(bytes, (field, reader, type) => {
    if (field === 2) file.charsmap = reader.bytes();
    else if (field === 3) file.dummyPrefix = reader.bool();
    else if (field === 4) file.removeExtraSpaces = reader.bool();
    else if (field === 5) file.escapeSpaces = reader.bool();
    else reader.skip(type, field);
  });
}
