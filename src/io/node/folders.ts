import * as fs from "node:fs/promises";
import * as nodePath from "node:path";
import { fileError } from "../file-error.js";
import type { FileStat } from "../types.js";

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

/** The path with every symbolic link followed: equal for two names of one file. Throws `file-not-found`. */
export async function realPath(path: string): Promise<string> {
  return fs.realpath(path).catch(fileError(path, "read"));
}
