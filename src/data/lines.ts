import { openFile, sourceChunks } from "#io";
import { TunesmithError } from "../errors/index.js";

/** Lines of a UTF-8 file with their numbers from 1, without reading it whole. Throws `file-corrupt` for other bytes. */
export async function* readLines(path: string): AsyncGenerator<{ line: number; text: string }> {
  const source = await openFile(path);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest = "";
  let line = 0;
  const decode = (bytes?: Uint8Array) => {
    try {
      return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode();
    } catch (cause) {
      throw new TunesmithError("file-corrupt", `${path} is not UTF-8 text, near line ${line + 1}`, {
        fix: "convert the file to UTF-8",
        cause,
      });
    }
  };
  try {
    for await (const bytes of sourceChunks(source)) {
      const parts = (rest + decode(bytes)).split("\n");
      rest = parts.pop() ?? "";
      for (const text of parts) yield { line: ++line, text: text.replace(/\r$/, "") };
    }
    rest += decode();
    if (rest !== "") yield { line: ++line, text: rest };
  } finally {
    await source.close();
  }
}
