/**
 * Files, environment and hashing in the browser. Paths name files of the origin private file system (OPFS), with
 * `/` as its root; the floors above import this module, or its Node twin, as `#io`.
 */
import { sha256 as sha256Hash } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { TunesmithError } from "../errors/index.js";
import { fileError, inUse } from "./file-error.js";
import { openUrl } from "./http.js";
import { basename, dirname, joinPath, resolvePath } from "./path.js";
import { decodeText, eachChunk, openBlob, sourceChunks } from "./source.js";
import type {
  ByteChunks,
  ByteSource,
  FileContent,
  FileLocation,
  FileStat,
  Release,
  Scratch,
  TempDirOptions,
} from "./types.js";

export { basename, dirname, joinPath, resolvePath } from "./path.js";
export { openBytes, sourceChunks } from "./source.js";
export type * from "./types.js";

/**
 * Opens a `Blob`, an URL (`http:`, `https:`, `blob:`, `data:`) or a path of the origin private file system for
 * random access. Nothing is read yet, except from a server: its first 64 KiB.
 *
 * Throws `file-not-found`, `file-read-failed`, and for URLs `offline` and `file-corrupt`.
 */
export async function openFile(location: FileLocation): Promise<ByteSource> {
  if (location instanceof Blob) return openBlob(location, blobName(location));
  if (location instanceof URL) return openUrl(location);
  if (/^(https?|blob|data):/i.test(location)) return openUrl(new URL(location));
  return openBlob(await opfsFile(location), location);
}

function blobName(blob: Blob): string {
  return "name" in blob && typeof blob.name === "string" ? blob.name : "blob";
}

/** Reads a whole file. Throws `file-not-found` or `file-read-failed`. */
export async function readFile(path: string): Promise<Uint8Array> {
  const source = await openFile(path);
  return source.read(0, source.size);
}

/** Reads a whole UTF-8 text file, without its byte order mark. Throws as `readFile`, and `file-corrupt`. */
export async function readText(path: string): Promise<string> {
  return decodeText(await readFile(path), path);
}

/** Whether a file or folder of this name exists. */
export async function fileExists(path: string): Promise<boolean> {
  return (await lookUp(path)) !== undefined;
}

/** Size, kind and time of a file or folder. Throws `file-not-found`. */
export async function stat(path: string): Promise<FileStat> {
  const found = await lookUp(path);
  if (found === undefined) return fileError(path, "read")(new DOMException("not found", "NotFoundError"));
  if (found.kind === "directory") return { size: 0, isDirectory: true, modified: 0 };
  const file = await found.getFile();
  return { size: file.size, isDirectory: false, modified: file.lastModified };
}

/** The names in a folder, sorted by code unit. Throws `file-not-found`. */
export async function listDir(path: string): Promise<string[]> {
  const folder = await openFolder(path, false).catch(fileError(path, "read"));
  const names: string[] = [];
  for await (const name of folder.keys()) names.push(name);
  return names.sort();
}

/** Creates a folder and its parents; one that exists already is left alone. */
export async function makeDir(path: string): Promise<void> {
  await openFolder(path, true).catch(fileError(path, "write"));
}

/** Removes a file, or a folder with all it holds; nothing happens when there is none. */
export async function remove(path: string): Promise<void> {
  const found = await lookUp(path);
  if (found === undefined) return;
  const folder = await openFolder(dirname(resolvePath(path)), false);
  await folder.removeEntry(found.name, { recursive: true }).catch(fileError(path, "write"));
}

/**
 * Writes a file so that readers see either the old or the whole new content: the browser itself writes to a swap
 * file that replaces the old one when it is closed. A failure leaves an older file untouched.
 *
 * @param content Bytes, UTF-8 text, several pieces (also asynchronous), or a function that writes them.
 * Throws `file-not-found` (no such folder), `storage-full` (the site's quota) and `file-write-failed` (not permitted).
 */
export async function writeFileAtomic(path: string, content: FileContent): Promise<void> {
  const fresh = !(await fileExists(path));
  const handle = await fileHandle(path, true).catch(fileError(path, "write"));
  const stream = await handle.createWritable().catch(fileError(path, "write"));
  try {
    await writeContent(stream, path, content);
    await stream.close().catch(fileError(path, "write"));
  } catch (error) {
    await stream.abort().catch(() => undefined);
    // Asking for the handle created an empty file where there was none.
    if (fresh) await remove(path);
    throw error;
  }
}

async function writeContent(
  stream: FileSystemWritableFileStream,
  path: string,
  content: FileContent,
): Promise<void> {
  let position = 0;
  const write = async (bytes: Uint8Array) => {
    await stream.write(unshared(bytes)).catch(fileError(path, "write"));
    position += bytes.byteLength;
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

/** Streams refuse views of shared memory (WASM threads), so those are copied first. */
function unshared(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const { buffer } = bytes;
  if (buffer instanceof ArrayBuffer) return new Uint8Array(buffer, bytes.byteOffset, bytes.byteLength);
  return new Uint8Array(bytes);
}

/** Appends UTF-8 text to a file, creating it if needed. Throws `file-write-failed` or `file-not-found`. */
export async function appendText(path: string, text: string): Promise<void> {
  const handle = await fileHandle(path, true).catch(fileError(path, "write"));
  const { size } = await handle.getFile();
  const stream = await handle.createWritable({ keepExistingData: true }).catch(fileError(path, "write"));
  await stream.write({ type: "write", position: size, data: text }).catch(fileError(path, "write"));
  await stream.close().catch(fileError(path, "write"));
}

/** Appends bytes to a file, creating it if needed. What was written before a failure stays. */
export async function appendBytes(path: string, chunks: ByteChunks): Promise<void> {
  const handle = await fileHandle(path, true).catch(fileError(path, "write"));
  let position = (await handle.getFile()).size;
  const stream = await handle.createWritable({ keepExistingData: true }).catch(fileError(path, "write"));
  try {
    for await (const chunk of eachChunk(chunks)) {
      await stream.write({ type: "write", position, data: unshared(chunk) }).catch(fileError(path, "write"));
      position += chunk.byteLength;
    }
  } finally {
    await stream.close().catch(fileError(path, "write"));
  }
}

/** Copies a file atomically, replacing `to`. Throws as `openFile` and `writeFileAtomic`. */
export async function copyFile(from: string, to: string): Promise<void> {
  await writeFileAtomic(to, sourceChunks(await openFile(from)));
}

/** Creates a new empty folder for temporary files and returns its path; the caller removes it. */
export async function tempDir(prefix = "tunesmith-", _options: TempDirOptions = {}): Promise<string> {
  const path = joinPath("/tmp", prefix + crypto.randomUUID());
  await makeDir(path);
  return path;
}

/**
 * Opens temporary storage for parts that do not fit memory: a folder with a file for each write, because a change of one
 * large file would copy all of it. A page that is left before `close()` leaves it in `/tmp`. Throws as `makeDir`, and from
 * `write` and `read` as `writeFileAtomic` and `openFile`.
 */
export async function openScratch(): Promise<Scratch> {
  const folder = await tempDir("scratch-");
  const pathOf = (offset: number) => joinPath(folder, String(offset));
  return {
    write: (offset, bytes) => writeFileAtomic(pathOf(offset), bytes),
    read: async (offset, length) => (await openFile(pathOf(offset))).read(0, length),
    close: () => remove(folder),
  };
}

/**
 * Takes a folder for this tab until the returned function is called, or the tab is closed or reloaded. Throws `in-use`
 * when another tab of the site, or other work in this one, has it.
 */
export async function holdLock(folder: string): Promise<Release> {
  const { locks } = navigator;
  if (!locks) return fileError(folder, "write")(new DOMException("no Web Locks", "NotSupportedError"));
  return new Promise<Release>((resolve, reject) => {
    // The lock is held for as long as the callback's promise is pending.
    const held = locks.request(`tunesmith:${resolvePath(folder)}`, { ifAvailable: true }, (lock) => {
      if (!lock)
        throw inUse(folder, "another tab, or other work in this one", "close the other tab, or stop its run");
      return new Promise<void>((release) =>
        resolve(async () => {
          release();
          await held;
        }),
      );
    });
    held.catch(reject);
  });
}

/** The file as a `Blob` that reads it when it is needed: for downloads. Throws `file-not-found`. */
export function fileBlob(path: string): Promise<Blob> {
  return opfsFile(path);
}

/** Bytes that the browser still grants this site; its own estimate, unknown (infinite) where it makes none. */
export async function spaceLeft(_path: string): Promise<number> {
  const { quota, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  return quota === undefined ? Number.POSITIVE_INFINITY : Math.max(0, quota - usage);
}

/** The folder for downloads and caches. It is not created. */
export function cacheDir(): string {
  return "/cache/tunesmith";
}

/**
 * A folder of files that came with a program, as a path: `url` is that of the folder, `names` the files needed. They are
 * copied from the server, or from what the browser has kept of it. Throws as `openFile`.
 */
export async function assetFolder(url: URL, names: readonly string[]): Promise<string> {
  const folder = joinPath(cacheDir(), "served", encodeURIComponent(url.href));
  await makeDir(folder);
  for (const name of names) {
    const source = await openUrl(new URL(name, url));
    await writeFileAtomic(joinPath(folder, name), sourceChunks(source));
  }
  return folder;
}

/** The absolute form of a path: this file system has no links. Throws `file-not-found`. */
export async function realPath(path: string): Promise<string> {
  await stat(path);
  return resolvePath(path);
}

/** Environment variables do not exist in a browser: always undefined. */
export function env(_name: string): string | undefined {
  return undefined;
}

/** SHA-256 of the bytes, as 64 hexadecimal digits. The pieces are hashed as they come, which WebCrypto cannot. */
export async function sha256(chunks: ByteChunks): Promise<string> {
  const hash = sha256Hash.create();
  for await (const chunk of eachChunk(chunks)) hash.update(chunk);
  return bytesToHex(hash.digest());
}

/** How many threads this page may run at once. */
export function cpuCount(): number {
  return navigator.hardwareConcurrency || 1;
}

function opfsRoot(): Promise<FileSystemDirectoryHandle> {
  if (typeof navigator !== "undefined" && navigator.storage?.getDirectory)
    return navigator.storage.getDirectory();
  throw new TunesmithError("file-read-failed", "this browser offers no origin private file system", {
    fix: "serve the page over https (or localhost), or pass a Blob or an URL instead of a path",
  });
}

async function openFolder(path: string, create: boolean): Promise<FileSystemDirectoryHandle> {
  let folder = await opfsRoot();
  for (const part of resolvePath(path).split("/")) {
    if (part !== "") folder = await folder.getDirectoryHandle(part, { create });
  }
  return folder;
}

async function fileHandle(path: string, create: boolean): Promise<FileSystemFileHandle> {
  const full = resolvePath(path);
  const folder = await openFolder(dirname(full), false);
  return folder.getFileHandle(basename(full), { create });
}

async function opfsFile(path: string): Promise<File> {
  const handle = await fileHandle(path, false).catch(fileError(path, "read"));
  return handle.getFile().catch(fileError(path, "read"));
}

async function lookUp(path: string): Promise<FileSystemFileHandle | FileSystemDirectoryHandle | undefined> {
  try {
    const full = resolvePath(path);
    if (full === "/") return await opfsRoot();
    const folder = await openFolder(dirname(full), false);
    return await folder.getFileHandle(basename(full)).catch(() => folder.getDirectoryHandle(basename(full)));
  } catch (error) {
    if (error instanceof TunesmithError) throw error;
    return undefined;
  }
}
