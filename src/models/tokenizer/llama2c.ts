import { sha256 } from "#io";
import { TunesmithError } from "../../errors/index.js";
import type { Piece } from "./piece-model.js";
import { pieceTokenizer } from "./piece-tokenizer.js";
import type { Tokenizer } from "./types.js";

const UNK_ID = 0;
const BOS_ID = 1;
const EOS_ID = 2;
/** Ids 3..258 are the bytes 0..255. */
const FIRST_BYTE = 3;

/**
 * A tokenizer from llama2.c's `tokenizer.bin` (`tok512.bin`, ...): an int32 maximum length, then for each token a
 * float32 score, an int32 byte length and the bytes, all little-endian. Ids 0, 1 and 2 are unknown, beginning and
 * end of sequence, 3 to 258 single bytes. Encoding equals `encode` of llama2.c's run.c.
 *
 * @param name Names the file in errors.
 * Throws `file-corrupt` when the lengths do not add up to the file.
 */
export async function tokenizerFromLlama2c(bytes: Uint8Array, name = "tokenizer.bin"): Promise<Tokenizer> {
  return pieceTokenizer({
    source: "llama2.c",
    hash: await sha256(bytes),
    model: { pieces: readPieces(bytes, name), algorithm: "bpe", unkId: UNK_ID },
    space: " ",
    normalize: (text) => text,
    removeExtraSpaces: false,
    dummyPrefix: true,
    inText: new Map(),
    bosId: BOS_ID,
    eosId: EOS_ID,
    addBos: true,
    addEos: false,
  });
}

function readPieces(bytes: Uint8Array, name: string): Piece[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const corrupt = (what: string) =>
    new TunesmithError("file-corrupt", `${name}: ${what}`, {
      fix: "check that this is a llama2.c tokenizer file, and copy it again",
    });
  if (bytes.length < 4) throw corrupt("the file is shorter than its header");
  const maxLength = view.getInt32(0, true);
  const pieces: Piece[] = [];
  for (let at = 4; at < bytes.length; ) {
    if (at + 8 > bytes.length) throw corrupt(`token ${pieces.length} is cut off`);
    const score = view.getFloat32(at, true);
    const length = view.getInt32(at + 4, true);
    at += 8;
    if (length < 0 || at + length > bytes.length || !Number.isFinite(score)) {
      throw corrupt(`token ${pieces.length} has length ${length} and score ${score}`);
    }
    pieces.push(piece(pieces.length, decoder.decode(bytes.subarray(at, at + length)), score));
    at += length;
  }
  if (maxLength < 1 || pieces.length < FIRST_BYTE + 256) {
    throw corrupt(`${pieces.length} tokens with a maximum length of ${maxLength}; at least 259 are needed`);
  }
  return pieces;
}

function piece(id: number, text: string, score: number): Piece {
  if (id === UNK_ID) return { text: text.trim(), score, kind: "unknown" };
  // Written as "\n<s>\n" by the exporter, for printing.
  if (id === BOS_ID || id === EOS_ID) return { text: text.trim(), score, kind: "control" };
  return { text, score, kind: id < FIRST_BYTE + 256 ? "byte" : "normal" };
}
