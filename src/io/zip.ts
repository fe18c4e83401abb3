import { Zip, ZipPassThrough } from "fflate";
import { joinPath, listDir, openFile, sourceChunks, stat } from "#io";

/**
 * A folder as a zip archive, for one download: files are stored as they are, since weights hardly shrink. Read once, piece by
 * piece; the archive is in the Blob's memory, which browsers move to the disk when it is large. Throws `file-not-found`.
 *
 * @example
 * ```ts
 * import { zipFolder } from "tunesmith/io";
 * const url = URL.createObjectURL(await zipFolder("/adapters/mine"));
 * console.log(url);
 * ```
 */
export async function zipFolder(path: string): Promise<Blob> {
  const parts: BlobPart[] = [];
  const zip = new Zip((error, chunk) => {
    if (error) throw error;
    parts.push(new Blob([chunk as Uint8Array<ArrayBuffer>]));
  });
  for (const name of await filesIn(path)) {
    const entry = new ZipPassThrough(name);
    // The archive says when files were written; the same folder is to give the same bytes.
    entry.mtime = new Date(1980, 0, 1);
    zip.add(entry);
    const source = await openFile(joinPath(path, name));
    try {
      for await (const chunk of sourceChunks(source)) entry.push(chunk);
    } finally {
      await source.close();
    }
    entry.push(new Uint8Array(0), true);
  }
  zip.end();
  return new Blob(parts, { type: "application/zip" });
}

/** Paths of all files below a folder, with `/` between their parts. */
async function filesIn(folder: string, prefix = ""): Promise<string[]> {
  const files: string[] = [];
  for (const name of await listDir(folder)) {
    const path = joinPath(folder, name);
    const { isDirectory } = await stat(path);
    files.push(...(isDirectory ? await filesIn(path, `${prefix}${name}/`) : [`${prefix}${name}`]));
  }
  return files;
}
