import { TunesmithError } from "../../errors/index.js";
import type { ByteSource } from "../../io/types.js";
import { fileChunks } from "./bytes.js";

/** How the bytes of a text file are read. */
export type Encoding = "utf-8" | "latin1" | "utf-16le";

/** Text of a file piece by piece. Throws `file-corrupt` for bytes that are not of the encoding. */
export async function* textChunks(source: ByteSource, encoding: Encoding = "utf-8"): AsyncGenerator<string> {
  const decoder = new TextDecoder(encoding, { fatal: true });
  let line = 1;
  const decode = (bytes?: Uint8Array): string => {
    try {
      return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode();
    } catch (cause) {
      throw new TunesmithError(
        "file-corrupt",
        `${source.name} is not ${encoding.toUpperCase()} text, near line ${line}`,
        {
          fix: "convert the file to UTF-8, or name its `encoding` (latin1, utf-16le)",
          cause,
        },
      );
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

/** Lines of a text file in batches, without reading it whole. Throws as `textChunks`. */
export async function* lineBatches(source: ByteSource, encoding?: Encoding): AsyncGenerator<LineBatch> {
  let rest = "";
  let first = 1;
  for await (const text of textChunks(source, encoding)) {
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
