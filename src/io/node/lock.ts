import { randomUUID } from "node:crypto";
import * as fs from "node:fs/promises";
import * as nodePath from "node:path";
import { fileError, inUse } from "../file-error.js";
import type { Release } from "../types.js";
import { realPath } from "./folders.js";
import { isRunning, ownerOf } from "./processes.js";

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
