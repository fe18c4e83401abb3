/**
 * Files, environment and hashing in Node. The floors above import this module, or its browser twin, as `#io`.
 *
 * Nothing here maps files into memory: every package that offers `mmap` to Node compiles native code when it is
 * installed. Two things take that role. A `ByteSource` reads only the ranges that are asked for, so opening a
 * checkpoint costs its header; and ONNX Runtime maps external data itself when a graph refers to the weights by
 * file and offset (`ByteSource.path`), so frozen weights are pages of the file and never copied.
 */
import { createHash } from "node:crypto";
import { openAsBlob } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as nodePath from "node:path";
import { fileURLToPath } from "node:url";
import { fileError } from "./file-error.js";
import { stat } from "./node/folders.js";
import { eachChunk } from "./source.js";
import type { ByteChunks } from "./types.js";

export { fileExists, listDir, makeDir, realPath, remove, stat } from "./node/folders.js";
export { holdLock } from "./node/lock.js";
export { openFile, readFile, readText } from "./node/read.js";
export { openScratch, tempDir } from "./node/temporary.js";
export { appendBytes, appendText, copyFile, writeFileAtomic } from "./node/write.js";
export { openBytes, sourceChunks } from "./source.js";
export type * from "./types.js";

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
