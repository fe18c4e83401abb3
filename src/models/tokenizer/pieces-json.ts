import { byteIds, type Piece, type PieceModel } from "./piece-model.js";

/** What a `tokenizer.json` says of a tokenizer over scored pieces. */
export interface PiecesJsonOptions {
  readonly model: PieceModel;
  readonly space: string;
  readonly removeExtraSpaces: boolean;
  readonly dummyPrefix: boolean;
  readonly bosId?: number | undefined;
  readonly eosId?: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** Compiled normalisation rules of SentencePiece. */
  readonly charsmap?: Uint8Array | undefined;
}

/**
 * A tokenizer over scored pieces as `tokenizer.json`: for `bpe`, every way in which a piece is two others is a merge, those
 * of higher scores first, which is what merging by score does.
 */
export function jsonFromPieces(options: PiecesJsonOptions): object {
  const { model, space, dummyPrefix } = options;
  const added = model.pieces.flatMap(({ text, kind }, id) => {
    const isAdded = kind === "control" || kind === "unknown" || kind === "user-defined";
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return isAdded ? [{ id, content: text, ...flags, special: kind !== "user-defined" }] : [];
  });
  const strip = dummyPrefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [];
  const toSpace = { type: "Replace", pattern: { String: space }, content: " " };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: normalizer(options),
    pre_tokenizer: {
      type: "Metaspace",
      replacement: space,
      // It leaves a text alone that begins with a space, which SentencePiece does not.
      prepend_scheme: dummyPrefix && options.removeExtraSpaces ? "first" : "never",
      split: false,
    },
    post_processor: postProcessor(options),
    decoder: { type: "Sequence", decoders: [toSpace, { type: "ByteFallback" }, { type: "Fuse" }, ...strip] },
    model: model.algorithm === "bpe" ? bpe(model) : unigram(model),
  };
}

function normalizer({ charsmap, removeExtraSpaces, dummyPrefix }: PiecesJsonOptions): object | null {
  const compiled =
    charsmap && charsmap.length > 0 ? [{ type: "Precompiled", precompiled_charsmap: base64(charsmap) }] : [];
  const spaces = removeExtraSpaces
    ? [
        { type: "Strip", strip_left: true, strip_right: true },
        { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
      ]
    : dummyPrefix
      ? [{ type: "Prepend", prepend: " " }]
      : [];
  const normalizers = [...compiled, ...spaces];
  return normalizers.length > 0 ? { type: "Sequence", normalizers } : null;
}

function postProcessor({ model, bosId, eosId, addBos, addEos }: PiecesJsonOptions): object | null {
  const mark = (id: number | undefined, wanted: boolean) =>
    wanted && id !== undefined ? [String(model.pieces[id]?.text)] : [];
  const [before, after] = [mark(bosId, addBos), mark(eosId, addEos)];
  if (before.length + after.length === 0) return null;
  const around = (id: string, type_id: number) => [
    ...before.map((token) => ({ SpecialToken: { id: token, type_id } })),
    { Sequence: { id, type_id } },
    ...after.map((token) => ({ SpecialToken: { id: token, type_id } })),
  ];
  const special = [...before, ...after].map((token) => {
    const id = model.pieces.findIndex(({ text }) => text === token);
    return [token, { id: token, ids: [id], tokens: [token] }];
  });
  return {
    type: "TemplateProcessing",
    single: around("A", 0),
    pair: [...around("A", 0), ...around("B", 1)],
    special_tokens: Object.fromEntries(special),
  };
}

const unkOf = ({ pieces, unkId }: PieceModel) => (unkId === undefined ? null : (pieces[unkId]?.text ?? null));
const hasBytes = (pieces: readonly Piece[]) => byteIds(pieces) !== undefined;

function unigram(model: PieceModel): object {
  return {
    type: "Unigram",
    unk_id: model.unkId ?? null,
    vocab: model.pieces.map(({ text, score }) => [text, score]),
    byte_fallback: hasBytes(model.pieces),
  };
}

function bpe(model: PieceModel): object {
  return {
    type: "BPE",
    dropout: null,
    unk_token: unkOf(model),
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: hasBytes(model.pieces),
    ignore_merges: false,
    vocab: Object.fromEntries(model.pieces.map(({ text }, id) => [text, id])),
    merges: mergesOf(model.pieces),
  };
}

function mergesOf(pieces: readonly Piece[]): [string, string][] {
  const normal = pieces.filter(({ kind, text }) => kind === "normal" && text !== "");
  const known = new Set(normal.map(({ text }) => text));
  return [...normal]
    .sort((a, b) => b.score - a.score)
    .flatMap(({ text }) => {
      const chars = [...text];
      return chars.slice(1).flatMap((_, at): [string, string][] => {
        const [left, right] = [chars.slice(0, at + 1).join(""), chars.slice(at + 1).join("")];
        return known.has(left) && known.has(right) ? [[left, right]] : [];
      });
    });
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192)
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}
