import { randomUUID } from "node:crypto";
import * as fs from "node:fs/promises";
import * as nodePath from "node:path";
import { fileError } from "../file-error.js";
import { eachChunk, sourceChunks } from "../source.js";
import type { ByteChunks, FileContent } from "../types.js";
import { MAX_READ, openPath } from "./read.js";

/**
 * Writes a file so that readers see either the old or the whole new content, also after a power cut: a temporary
 * file in the same folder is written, flushed to disk and renamed, and the folder is flushed. A failure removes
 * the temporary file and leaves an older file untouched.
 *
 * @param content Bytes, UTF-8 text, several pieces (also asynchronous), or a function that writes them.
 * Throws `file-not-found` (no such folder), `storage-full` and `file-write-failed` (not permitted).
 */
export async function writeFileAtomic(path: string, content: FileContent): Promise<void> {
  const folder = nodePath.dirname(path);
  const temporary = nodePath.join(folder, `.${nodePath.basename(path)}.${randomUUID()}.tmp`);
  const handle = await fs.open(temporary, "wx").catch(fileError(path, "write"));
  try {
    try {
      await writeContent(handle, path, content);
      await handle.sync().catch(fileError(path, "write"));
    } finally {
      await handle.close();
    }
    await fs.rename(temporary, path).catch(fileError(path, "write"));
  } catch (error) {
    await fs.rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(folder);
}

async function writeContent(handle: fs.FileHandle, path: string, content: FileContent): Promise<void> {
  let position = 0;
  const write = async (bytes: Uint8Array) => {
    for (let done = 0; done < bytes.byteLength; ) {
      const length = Math.min(MAX_READ, bytes.byteLength - done);
      const { bytesWritten } = await handle.write(bytes, done, length).catch(fileError(path, "write"));
      done += bytesWritten;
      position += bytesWritten;
    }
  };
  if (typeof content === "function") {
    await content({
      get position() {
        return position;
      },
      write,
    });
  } else if (typeof content === "string") await write(new TextEncoder().encode(content));
  else for await (const chunk of eachChunk(content)) await write(chunk);
}

/** A rename is durable once its folder is flushed. Windows cannot open folders; there the rename itself is. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await fs.open(folder, "r").catch(fileError(folder, "write"));
  try {
    await handle.sync();
  } catch (error) {
    // Some network file systems refuse to flush a folder; the file itself is on disk.
    if ((error as NodeJS.ErrnoException).code !== "EINVAL") fileError(folder, "write")(error);
  } finally {
    await handle.close();
  }
}

/** Appends UTF-8 text to a file, creating it if needed. Throws `file-write-failed` or `file-not-found`. */
export async function appendText(path: string, text: string): Promise<void> {
  await fs.appendFile(path, text).catch(fileError(path, "write"));
}

/** Appends bytes to a file, creating it if needed. What was written before a failure stays. */
export async function appendBytes(path: string, chunks: ByteChunks): Promise<void> {
  const handle = await fs.open(path, "a").catch(fileError(path, "write"));
  try {
    await writeContent(handle, path, chunks);
  } finally {
    await handle.close();
  }
}

/** Copies a file atomically, replacing `to`. Throws as `openFile` and `writeFileAtomic`. */
export async function copyFile(from: string, to: string): Promise<void> {
  const source = await openPath(from);
  try {
    await writeFileAtomic(to, sourceChunks(source));
  } finally {
    await source.close();
  }
}
