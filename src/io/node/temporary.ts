import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as nodePath from "node:path";
import { fileError } from "../file-error.js";
import { checkRange } from "../source.js";
import type { Scratch, TempDirOptions } from "../types.js";
import { isRunning, ownerOf } from "./processes.js";
import { allocate, MAX_READ } from "./read.js";

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
