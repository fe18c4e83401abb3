import { hostname } from "node:os";
import { TunesmithError } from "../../errors/index.js";
import { markInterrupted, type RunStore } from "../../training/index.js";

/**
 * Opens a database of runs: a PostgreSQL URL, or the path of a SQLite file, which is created when it is not there. Runs
 * whose process has died are marked as interrupted.
 *
 * @throws `tracking-failed`, `config-invalid` for URLs of other databases.
 *
 * @example
 * ```ts
 * import { openRunStore } from "tunesmith/tracking";
 * const store = await openRunStore("runs.sqlite");
 * for (const run of await store.list()) console.log(run.id, run.status, run.summary);
 * await store.close();
 * ```
 */
export async function openRunStore(location: string): Promise<RunStore> {
  const store = await openByKind(location);
  try {
    await markInterrupted(store, { host: hostname(), isAlive: isProcessAlive, now: Date.now() });
  } catch (error) {
    await store.close();
    throw error;
  }
  return store;
}

/** The drivers are loaded when they are needed. */
async function openByKind(location: string): Promise<RunStore> {
  if (isPostgres(location)) return (await import("./postgres.js")).openPostgresStore(location);
  const [, scheme] = /^([a-z][a-z0-9+.-]+):\/\//i.exec(location) ?? [];
  if (scheme !== undefined) {
    throw new TunesmithError("config-invalid", `runs cannot be kept in a database of the kind '${scheme}'`, {
      fix: "give the path of a SQLite file, or a postgres:// URL",
    });
  }
  return (await import("./sqlite.js")).openSqliteStore(location);
}

/** Whether a location names a PostgreSQL database. */
export const isPostgres = (location: string): boolean => /^postgres(ql)?:\/\//i.test(location);

/** Whether a process of this machine lives; one of another user counts. */
export function isProcessAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
