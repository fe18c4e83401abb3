import type { ByteSource } from "../../io/types.js";
import { type ArchiveEntry, corrupt, isContent, MAX_ENTRIES, unsupported } from "./entries.js";

const BLOCK = 512;
const latin = new TextDecoder("latin1");
const utf8 = new TextDecoder();

/** The files of a tar archive: POSIX ustar with the long names of GNU (type L) and pax (type x). */
export async function tarEntries(source: ByteSource): Promise<ArchiveEntry[]> {
  const entries: ArchiveEntry[] = [];
  let longName: string | undefined;
  let at = 0;
  while (at + BLOCK <= source.size) {
    const block = await source.read(at, BLOCK);
    if (block.every((byte) => byte === 0)) break;
    const header = tarHeader(source, block, at);
    const start = at + BLOCK;
    if (start + header.size > source.size)
      throw corrupt(source, `'${header.path}' reaches beyond the end of the file`);
    if (header.type === "L" || header.type === "x") {
      if (header.size > 1 << 20) throw corrupt(source, "a file name of more than 1 MiB");
      const text = utf8.decode(await source.read(start, header.size));
      longName = header.type === "L" ? text.replace(/\0.*$/s, "") : (paxPath(text) ?? longName);
    } else {
      const path = longName ?? header.path;
      longName = undefined;
      if (header.type === "0" && isContent(path)) entries.push(tarEntry(source, path, start, header.size));
    }
    if (entries.length > MAX_ENTRIES) throw corrupt(source, `more than ${MAX_ENTRIES} files`);
    at = start + Math.ceil(header.size / BLOCK) * BLOCK;
  }
  return entries;
}

const tarEntry = (source: ByteSource, path: string, start: number, size: number): ArchiveEntry => ({
  name: `${source.name}:${path}`,
  path,
  size,
  read: () => source.read(start, size),
});

function tarHeader(source: ByteSource, block: Uint8Array, at: number) {
  const text = (from: number, length: number) =>
    utf8.decode(block.subarray(from, from + length)).replace(/\0.*$/s, "");
  const octal = (from: number, length: number) => {
    // Sizes above 8 GiB are binary, marked by the highest bit.
    if ((block[from] ?? 0) & 0x80) {
      return block.subarray(from + 1, from + length).reduce((sum, byte) => sum * 256 + byte, 0);
    }
    return Number.parseInt(text(from, length).trim() || "0", 8);
  };
  let sum = 8 * 32;
  for (let index = 0; index < BLOCK; index++) {
    if (index < 148 || index >= 156) sum += block[index] as number;
  }
  if (sum !== octal(148, 8)) {
    if (at > 0) throw corrupt(source, `the header at byte ${at} is damaged`);
    throw unsupported(source, "is no tar or zip file", "unpack it, or give a folder, .tar or .zip");
  }
  const prefix = latin.decode(block.subarray(257, 262)) === "ustar" ? text(345, 155) : "";
  const size = octal(124, 12);
  if (!Number.isSafeInteger(size) || size < 0)
    throw corrupt(source, `a size that is no number at byte ${at}`);
  const type = String.fromCharCode(block[156] ?? 0).replace("\0", "0");
  return { path: prefix === "" ? text(0, 100) : `${prefix}/${text(0, 100)}`, size, type };
}

/** Records of pax headers are `LENGTH KEY=VALUE\n`. */
const paxPath = (text: string): string | undefined => /^\d+ path=(.*)$/m.exec(text)?.[1];
