import { joinPath, listDir, openFile, readFile, stat } from "#io";
import type { ByteSource } from "../../io/types.js";
import { readEntry, readZip } from "../../tensor/formats/zip.js";
import { type ArchiveEntry, isContent } from "./entries.js";
import { tarEntries } from "./tar.js";

export type { ArchiveEntry } from "./entries.js";

/** A folder, tar or zip file as a list of files that are read one by one when they are needed. */
export interface Archive {
  readonly name: string;
  /** Sorted by path. */
  readonly entries: readonly ArchiveEntry[];
  close(): Promise<void>;
}

const MAX_DEPTH = 64;

/**
 * Lists the files of a folder, a tar file or a zip file (by the first bytes, not the name). Only the index is read;
 * entries are read at random, so the archive stays open until `close()`.
 *
 * Throws `file-not-found`, `file-corrupt` for a damaged index, `format-unsupported` for other files, packed tar files and
 * encrypted zip entries.
 *
 * @example
 * ```ts
 * import { decodeImage, openArchive } from "tunesmith/data";
 * const archive = await openArchive("photos.zip");
 * for (const entry of archive.entries) console.log(entry.path, decodeImage(await entry.read(), entry.name).width);
 * await archive.close();
 * ```
 */
export async function openArchive(path: string): Promise<Archive> {
  if ((await stat(path)).isDirectory) return openFolder(path);
  const source = await openFile(path);
  try {
    const entries = (await isZip(source)) ? await zipEntries(source) : await tarEntries(source);
    return { name: path, entries: sorted(entries), close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

const sorted = (entries: ArchiveEntry[]) =>
  entries.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));

async function isZip(source: ByteSource): Promise<boolean> {
  const head = source.size >= 4 ? await source.read(0, 4) : new Uint8Array(4);
  return head[0] === 0x50 && head[1] === 0x4b && (head[2] === 3 || head[2] === 5);
}

async function zipEntries(source: ByteSource): Promise<ArchiveEntry[]> {
  const files = [...(await readZip(source)).values()].filter(({ name }) => isContent(name));
  return files.map((entry) => ({
    name: `${source.name}:${entry.name}`,
    path: entry.name,
    size: entry.size,
    read: () => readEntry(source, entry),
  }));
}

async function openFolder(root: string): Promise<Archive> {
  const entries: ArchiveEntry[] = [];
  const visit = async (folder: string, prefix: string, depth: number): Promise<void> => {
    for (const name of await listDir(folder)) {
      if (name.startsWith(".")) continue;
      const path = joinPath(folder, name);
      const info = await stat(path).catch(() => undefined);
      if (!info) continue;
      if (!info.isDirectory) {
        entries.push({ name: path, path: prefix + name, size: info.size, read: () => readFile(path) });
      } else if (depth < MAX_DEPTH) await visit(path, `${prefix}${name}/`, depth + 1);
    }
  };
  await visit(root, "", 0);
  return { name: root, entries: sorted(entries), close: async () => {} };
}
