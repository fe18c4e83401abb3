/**
 * Files, environment and hashing in Node. The floors above import this module, or its browser twin, as `#io`.
 *
 * Nothing here maps files into memory: every package that offers `mmap` to Node compiles native code when it is
 * installed. Two things take that role. A `ByteSource` reads only the ranges that are asked for, so opening a
 * checkpoint costs its header; and ONNX Runtime maps external data itself when a graph refers to the weights by
 * file and offset (`ByteSource.path`), so frozen weights are pages of the file and never copied.
 */
import { createHash, randomUUID } from "node:crypto";
import { close, closeSync, open, openAsBlob, read, rmSync } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as nodePath from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { TunesmithError } from "../errors/index.js";
import { fileError, inUse } from "./file-error.js";
import { openUrl } from "./http.js";
import { checkRange, decodeText, eachChunk, openBlob, sourceChunks } from "./source.js";
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

export { openBytes, sourceChunks } from "./source.js";
export type * from "./types.js";

const openFd = promisify(open);
const closeFd = promisify(close);
const readFd = promisify(read);

/**
 * Closes the files of sources that nobody can reach any more. A model's weights are read through its source as long
 * as the model lives, and nobody closes a model; a `FileHandle` left so would warn (DEP0137).
 */
const forgotten = new FinalizationRegistry((fd: number) => closeSync(fd));

/** One `read` system call moves at most 2 GiB; staying below keeps the loop portable. */
const MAX_READ = 1 << 30;

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

async function openPath(path: string): Promise<ByteSource> {
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
function allocate(path: string, length: number): Buffer {
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

/** Whether a file or folder of this name exists. */
export async function fileExists(path: string): Promise<boolean> {
  return fs.stat(path).then(
    () => true,
    () => false,
  );
}

/** Size, kind and time of a file or folder. Throws `file-not-found`. */
export async function stat(path: string): Promise<FileStat> {
  const info = await fs.stat(path).catch(fileError(path, "read"));
  const isDirectory = info.isDirectory();
  return { size: isDirectory ? 0 : info.size, isDirectory, modified: info.mtimeMs };
}

/** The names in a folder, sorted by code unit. Throws `file-not-found`. */
export async function listDir(path: string): Promise<string[]> {
  return (await fs.readdir(path).catch(fileError(path, "read"))).sort();
}

/** Creates a folder and its parents; one that exists already is left alone. */
export async function makeDir(path: string): Promise<void> {
  await makeParents(nodePath.resolve(path)).catch(fileError(path, "write"));
}

/** Folder by folder: Node's own recursion never ends where a file system refuses a folder as absent (/proc). */
async function makeParents(path: string): Promise<void> {
  const make = async () => {
    try {
      await fs.mkdir(path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const isThere = code !== "ENOENT" && (await fs.stat(path).catch(() => undefined))?.isDirectory();
      if (!isThere) throw error;
    }
  };
  const parent = nodePath.dirname(path);
  return make().catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" || parent === path) throw error;
    await makeParents(parent);
    await make();
  });
}

/** Removes a file, or a folder with all it holds; nothing happens when there is none. */
export async function remove(path: string): Promise<void> {
  await fs.rm(path, { recursive: true, force: true }).catch(fileError(path, "write"));
}

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

/** Creates a new empty folder for temporary files and returns its path; the caller removes it, or the end of the process. */
export async function tempDir(prefix = "tunesmith-", options: TempDirOptions = {}): Promise<string> {
  const owner = options.untilExit ? `${OWNED}${ownerOf(process.pid)}-` : "";
  if (options.untilExit) await removeOrphans();
  const stem = nodePath.join(os.tmpdir(), prefix + owner);
  const folder = await fs.mkdtemp(stem).catch(fileError(stem, "write"));
  if (options.untilExit) removeAtExit(folder);
  return folder;
}

const OWNED = "of-";
/** Processes of other machines and containers may share the folder, and have numbers of their own. */
const ownerOf = (pid: number): string => `${os.hostname().replace(/[^\w.]/g, "_")}-${pid}`;

const doomed = new Set<string>();

function removeAtExit(folder: string): void {
  if (doomed.size === 0) {
    process.once("exit", () => {
      for (const path of doomed) {
        try {
          rmSync(path, { recursive: true, force: true });
        } catch {
          // Windows keeps files that are still mapped; the next process finds them.
        }
      }
    });
  }
  doomed.add(folder);
}

/** Removes what processes left that were killed: those had no exit of their own. */
async function removeOrphans(): Promise<void> {
  const names = await fs.readdir(os.tmpdir()).catch(() => []);
  for (const name of names) {
    const [, owner, pid] = /^tunesmith-(?:[a-z0-9]+-)?of-(.+-(\d+))-[^-]+$/.exec(name) ?? [];
    if (owner !== ownerOf(Number(pid)) || isRunning(Number(pid))) continue;
    await fs.rm(nodePath.join(os.tmpdir(), name), { recursive: true, force: true }).catch(() => undefined);
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/**
 * Opens a temporary file for parts that do not fit memory. It has no name from the start where the system allows that, so
 * a process that is killed leaves nothing behind. Throws `storage-full` and `file-write-failed`, here and from `write`.
 */
export async function openScratch(): Promise<Scratch> {
  const path = nodePath.join(os.tmpdir(), `tunesmith-${randomUUID()}`);
  const handle = await fs.open(path, "wx+").catch(fileError(path, "write"));
  const unlink = () => fs.rm(path, { force: true }).catch(() => undefined);
  await unlink();
  return {
    async write(offset, bytes) {
      for (let done = 0; done < bytes.byteLength; ) {
        const length = Math.min(MAX_READ, bytes.byteLength - done);
        const { bytesWritten } = await handle
          .write(bytes, done, length, offset + done)
          .catch(fileError(path, "write"));
        done += bytesWritten;
      }
    },
    async read(offset, length) {
      const bytes = allocate(path, length);
      for (let done = 0; done < length; ) {
        const wanted = Math.min(MAX_READ, length - done);
        const { bytesRead } = await handle
          .read(bytes, done, wanted, offset + done)
          .catch(fileError(path, "read"));
        if (bytesRead === 0) checkRange(path, offset + done, offset, length);
        done += bytesRead;
      }
      return bytes;
    },
    async close() {
      await handle.close();
      await unlink();
    },
  };
}

/** Folders that this process holds. */
const held = new Set<string>();

/**
 * Takes a folder for this process until the returned function is called: a file `.lock` in it names the process. What a
 * process left that was killed is taken over, and so is the lock of another machine, whose processes cannot be seen.
 *
 * Throws `in-use` when another process, or other work in this one, has it; `file-write-failed`.
 */
export async function holdLock(folder: string): Promise<Release> {
  const path = nodePath.join(await realPath(folder), ".lock");
  if (held.has(path)) throw inUse(folder, "this process", "wait until its run has ended, or stop it");
  held.add(path);
  try {
    while (!(await writeLock(path))) await removeStaleLock(path, folder);
  } catch (error) {
    held.delete(path);
    throw error;
  }
  return async () => {
    await fs.rm(path, { force: true }).catch(fileError(path, "write"));
    held.delete(path);
  };
}

/** Writes a lock unless there is one. */
async function writeLock(path: string): Promise<boolean> {
  const temporary = `${path}.${randomUUID()}`;
  try {
    await fs.writeFile(temporary, ownerOf(process.pid));
    // Unlike a file that is created and then written, a link appears with its content.
    await fs.link(temporary, path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EEXIST" ? false : fileError(path, "write")(error);
  } finally {
    await fs.rm(temporary, { force: true });
  }
}

async function removeStaleLock(path: string, folder: string): Promise<void> {
  const found = await fs.readFile(path, "utf8").catch(() => "");
  const pid = Number(/-(\d+)$/.exec(found)?.[1]);
  if (pid !== process.pid && found === ownerOf(pid) && isRunning(pid)) {
    const fix = `stop that process, or remove ${path} if it has nothing to do with it`;
    throw inUse(folder, `process ${pid}`, fix);
  }
  await fs.rm(path, { force: true }).catch(fileError(path, "write"));
}

/** The file as a `Blob` that reads it when it is needed. Throws `file-not-found`. */
export async function fileBlob(path: string): Promise<Blob> {
  await stat(path);
  return openAsBlob(path).catch(fileError(path, "read"));
}

/** Bytes free on the disk that holds a file or folder. Throws `file-not-found`. */
export async function spaceLeft(path: string): Promise<number> {
  const { bavail, bsize } = await fs.statfs(path).catch(fileError(path, "read"));
  return bavail * bsize;
}

/**
 * The folder for downloads and caches: `TUNESMITH_CACHE`, else `XDG_CACHE_HOME/tunesmith`, else the platform's
 * (`%LOCALAPPDATA%\tunesmith` on Windows, `~/.cache/tunesmith` elsewhere). It is not created.
 */
export function cacheDir(): string {
  const chosen = env("TUNESMITH_CACHE");
  if (chosen) return nodePath.resolve(chosen);
  const base = env("XDG_CACHE_HOME") ?? (process.platform === "win32" ? env("LOCALAPPDATA") : undefined);
  return nodePath.join(base ?? nodePath.join(os.homedir(), ".cache"), "tunesmith");
}

/**
 * A folder of files that came with a program, as a path: `url` is that of the folder, `names` the files needed. Throws
 * `file-not-found` naming the file that is missing.
 */
export async function assetFolder(url: URL, names: readonly string[]): Promise<string> {
  const folder = nodePath.resolve(fileURLToPath(url));
  for (const name of names) await stat(nodePath.join(folder, name));
  return folder;
}

/** Joins and normalises path parts in the platform's notation. */
export function joinPath(...parts: string[]): string {
  return nodePath.join(...parts);
}

/** The folder part of a path. */
export function dirname(path: string): string {
  return nodePath.dirname(path);
}

/** The last part of a path, without `suffix` if it ends so. */
export function basename(path: string, suffix?: string): string {
  return nodePath.basename(path, suffix);
}

/** The absolute form of a path, seen from the working directory. */
export function resolvePath(...parts: string[]): string {
  return nodePath.resolve(...parts);
}

/** The path with every symbolic link followed: equal for two names of one file. Throws `file-not-found`. */
export async function realPath(path: string): Promise<string> {
  return fs.realpath(path).catch(fileError(path, "read"));
}

/** An environment variable; undefined when unset or empty. */
export function env(name: string): string | undefined {
  return process.env[name] || undefined;
}

/** SHA-256 of the bytes, as 64 hexadecimal digits. The pieces are hashed as they come. */
export async function sha256(chunks: ByteChunks): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of eachChunk(chunks)) hash.update(chunk);
  return hash.digest("hex");
}

/** How many threads this process may run at once. */
export function cpuCount(): number {
  return os.availableParallelism();
}
