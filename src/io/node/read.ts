import { close, closeSync, open, read } from "node:fs";
import * as fs from "node:fs/promises";
import * as nodePath from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { TunesmithError } from "../../errors/index.js";
import { fileError } from "../file-error.js";
import { openUrl } from "../http.js";
import { checkRange, decodeText, openBlob } from "../source.js";
import type { ByteSource, FileLocation } from "../types.js";

const openFd = promisify(open);
const closeFd = promisify(close);
const readFd = promisify(read);

/**
 * Closes the files of sources that nobody can reach any more. A model's weights are read through its source as long
 * as the model lives, and nobody closes a model; a `FileHandle` left so would warn (DEP0137).
 */
const forgotten = new FinalizationRegistry((fd: number) => closeSync(fd));

/** One `read` system call moves at most 2 GiB; staying below keeps the loop portable. */
export const MAX_READ = 1 << 30;

/**
 * Opens a file, a `Blob` or an URL (`file:`, `http:`, `https:`) for random access. A local file stays open until
 * `close()`, or until the source is garbage; nothing is read yet.
 *
 * Throws `file-not-found`, `file-read-failed`, and for URLs what `openUrl` throws.
 */
export async function openFile(location: FileLocation): Promise<ByteSource> {
  if (location instanceof Blob) return openBlob(location, blobName(location));
  if (typeof location === "string") {
    return /^https?:\/\//i.test(location) ? openUrl(new URL(location)) : openPath(location);
  }
  return location.protocol === "file:" ? openPath(fileURLToPath(location)) : openUrl(location);
}

/** A file for random access, closed with its source or after it. */
export async function openPath(path: string): Promise<ByteSource> {
  const info = await fs.stat(path).catch(fileError(path, "read"));
  if (info.isDirectory()) {
    return fileError(path, "read")(Object.assign(new Error("is a folder"), { code: "EISDIR" }));
  }
  // Reads hold this object while they wait, so the file cannot be closed under them.
  const file = { fd: await openFd(path, "r").catch(fileError(path, "read")), open: true };
  forgotten.register(file, file.fd, file);
  const size = info.size;
  return {
    name: path,
    size,
    path: nodePath.resolve(path),
    async read(offset, length) {
      checkRange(path, size, offset, length);
      const bytes = allocate(path, length);
      for (let done = 0; done < length; ) {
        const wanted = Math.min(MAX_READ, length - done);
        const { bytesRead } = await readFd(file.fd, bytes, done, wanted, offset + done).catch(
          fileError(path, "read"),
        );
        if (bytesRead === 0) checkRange(path, offset + done, offset, length);
        done += bytesRead;
      }
      return new Uint8Array(bytes.buffer, bytes.byteOffset, length);
    },
    async close() {
      if (!file.open) return;
      file.open = false;
      forgotten.unregister(file);
      await closeFd(file.fd);
    },
  };
}

/** Its own, unpooled buffer: typed arrays of any element size can then view it from byte 0. */
export function allocate(path: string, length: number): Buffer {
  try {
    return Buffer.allocUnsafeSlow(length);
  } catch (cause) {
    throw new TunesmithError("out-of-memory", `${path}: ${length} bytes cannot be held in one piece`, {
      fix: "read it in parts: sourceChunks for a file, readRows for a tensor",
      cause,
      details: { path, length },
    });
  }
}

function blobName(blob: Blob): string {
  return "name" in blob && typeof blob.name === "string" ? blob.name : "blob";
}

/** Reads a whole file. Throws `file-not-found` or `file-read-failed`. */
export async function readFile(path: string): Promise<Uint8Array> {
  const source = await openPath(path);
  try {
    return await source.read(0, source.size);
  } finally {
    await source.close();
  }
}

/** Reads a whole UTF-8 text file, without its byte order mark. Throws as `readFile`, and `file-corrupt`. */
export async function readText(path: string): Promise<string> {
  return decodeText(await readFile(path), path);
}
