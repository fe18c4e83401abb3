import { TunesmithError } from "../../errors/index.js";
import type { ByteSource } from "../../io/types.js";
import { fileChunks } from "./bytes.js";

/** Text of a UTF-8 file piece by piece. Throws `file-corrupt` for other bytes. */
export async function* textChunks(source: ByteSource): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let line = 1;
  const decode = (bytes?: Uint8Array): string => {
    try {
      return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode();
    } catch (cause) {
      throw new TunesmithError("file-corrupt", `${source.name} is not UTF-8 text, near line ${line}`, {
        fix: "convert the file to UTF-8",
        cause,
      });
    }
  };
  for await (const bytes of fileChunks(source)) {
    const text = decode(bytes);
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) line++;
    yield text;
  }
  const rest = decode();
  if (rest !== "") yield rest;
}

/** Lines that follow one another; `first` is the number of the first one, from 1. */
export interface LineBatch {
  readonly first: number;
  readonly lines: readonly string[];
}

/** Lines of a UTF-8 file in batches, without reading it whole. Throws `file-corrupt` for other bytes. */
export async function* lineBatches(source: ByteSource): AsyncGenerator<LineBatch> {
  let rest = "";
  let first = 1;
  for await (const text of textChunks(source)) {
    // Searching the new text only keeps a file of one long line linear in its length.
    const end = text.lastIndexOf("\n");
    if (end < 0) {
      rest += text;
      continue;
    }
    const lines = (rest + text.slice(0, end)).split("\n").map(withoutReturn);
    rest = text.slice(end + 1);
    yield { first, lines };
    first += lines.length;
  }
  if (rest !== "") yield { first, lines: [withoutReturn(rest)] };
}

const withoutReturn = (line: string) => (line.endsWith("\r") ? line.slice(0, -1) : line);
