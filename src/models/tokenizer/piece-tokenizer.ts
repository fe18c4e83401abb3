import { byteIds, type PieceModel, segmenter } from "./piece-model.js";
import { jsonFromPieces } from "./pieces-json.js";
import { streamDecoder } from "./stream.js";
import type { Tokenizer, TokenizerSource } from "./types.js";

/** Everything a tokenizer over scored pieces needs besides its pieces. */
export interface PieceTokenizerSpec {
  readonly source: TokenizerSource;
  readonly hash: string;
  readonly model: PieceModel;
  /** What pieces write for a space. */
  readonly space: string;
  /** Text before it is cut; spaces are still spaces. */
  readonly normalize: (text: string) => string;
  /** Trims the ends and joins runs of spaces. */
  readonly removeExtraSpaces: boolean;
  /** Puts a space before a text, so that its first word equals one inside a sentence. */
  readonly dummyPrefix: boolean;
  /** Tokens recognised in the text itself. */
  readonly inText: ReadonlyMap<string, number>;
  readonly bosId?: number | undefined;
  readonly eosId?: number | undefined;
  readonly padId?: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  readonly chatTemplate?: string | undefined;
  /** Compiled rules behind `normalize`. */
  readonly charsmap?: Uint8Array | undefined;
}

/** A tokenizer over scored pieces, as SentencePiece and llama2.c define it. */
export function pieceTokenizer(spec: PieceTokenizerSpec): Tokenizer {
  const { model, bosId, eosId } = spec;
  const pieces = model.pieces;
  const cut = segmenter(model, spec.space);
  const sections = sectionsOf(spec.inText);
  const specialIds = new Set<number>();
  const idsByText = new Map<string, number>();
  pieces.forEach((piece, id) => {
    if (piece.kind === "control" || piece.kind === "unknown") specialIds.add(id);
    if (!idsByText.has(piece.text)) idsByText.set(piece.text, id);
  });
  const decode = pieceDecoder(spec);
  const encode: Tokenizer["encode"] = (text, { addSpecialTokens = true, continuation = false } = {}) => {
    const marks = addSpecialTokens && !continuation;
    const ids: number[] = marks && spec.addBos && bosId !== undefined ? [bosId] : [];
    let first = !continuation;
    for (const section of sections(text)) {
      const id = spec.inText.get(section);
      if (id !== undefined) ids.push(id);
      else for (const piece of cut(prepare(section, spec, first))) ids.push(piece);
      first = false;
    }
    if (marks && spec.addEos && eosId !== undefined) ids.push(eosId);
    return Int32Array.from(ids);
  };
  return {
    source: spec.source,
    vocabSize: pieces.length,
    bosId,
    eosId,
    padId: spec.padId,
    unkId: model.unkId,
    specialIds,
    hash: spec.hash,
    chatTemplate: spec.chatTemplate,
    encode,
    encodePair(first, second, options) {
      const [a, b] = [encode(first, options), encode(second, options)];
      const typeIds = new Int32Array(a.length + b.length).fill(1, a.length);
      return { ids: Int32Array.of(...a, ...b), typeIds };
    },
    decode: (ids, { skipSpecialTokens = false } = {}) =>
      decode(skipSpecialTokens ? [...ids].filter((id) => !specialIds.has(id)) : [...ids]),
    decodeStream: ({ skipSpecialTokens = false } = {}) =>
      streamDecoder(decode, skipSpecialTokens ? specialIds : new Set()),
    toJson: () => jsonFromPieces(spec),
    tokenToId: (token) => idsByText.get(token),
    idToToken: (id) => pieces[id]?.text,
  };
}

function prepare(section: string, spec: PieceTokenizerSpec, first: boolean): string {
  let text = spec.normalize(section);
  if (spec.removeExtraSpaces) {
    text = text.replace(/ +/g, " ").replace(/ $/, "");
    if (first) text = text.replace(/^ /, "");
  }
  if (text === "") return "";
  if (first && spec.dummyPrefix) text = ` ${text}`;
  return spec.space === " " ? text : text.replaceAll(" ", spec.space);
}

/** Cuts a text at the tokens written out in it, longest first. */
function sectionsOf(tokens: ReadonlyMap<string, number>): (text: string) => string[] {
  if (tokens.size === 0) return (text) => (text === "" ? [] : [text]);
  const names = [...tokens.keys()].filter((name) => name !== "").sort((a, b) => b.length - a.length);
  const escaped = names.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`(${escaped.join("|")})`, "u");
  return (text) => text.split(pattern).filter((section) => section !== "");
}

/** Ids to text through bytes, so that characters cut into byte tokens come back whole. */
function pieceDecoder(spec: PieceTokenizerSpec): (ids: readonly number[]) => string {
  const pieces = spec.model.pieces;
  const bytes = byteIds(pieces);
  const byteOf = new Map<number, number>();
  bytes?.forEach((id, byte) => {
    byteOf.set(id, byte);
  });
  const encoder = new TextEncoder();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const texts = pieces.map((piece) =>
    piece.kind === "normal" || piece.kind === "user-defined"
      ? piece.text.replaceAll(spec.space, " ")
      : piece.text,
  );
  return (ids) => {
    const output: number[] = [];
    let start = true;
    for (const id of ids) {
      const piece = pieces[id];
      if (!piece) continue;
      const byte = byteOf.get(id);
      let text = texts[id] ?? "";
      if (piece.kind !== "control" && start) {
        if (spec.dummyPrefix && byte === undefined && text.startsWith(" ")) text = text.slice(1);
        start = false;
      }
      if (byte !== undefined) output.push(byte);
      else for (const value of encoder.encode(text)) output.push(value);
    }
    return decoder.decode(Uint8Array.from(output));
  };
}
