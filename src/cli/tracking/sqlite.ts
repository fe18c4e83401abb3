import { mkdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { SqliteDialect } from "kysely";
import Database from "libsql";
import { TunesmithError } from "../../errors/index.js";
import type { RunStore } from "../../training/index.js";
import { openSqlStore } from "./sql-store.js";

/** Milliseconds that a writer waits for another one. */
const BUSY_TIMEOUT = 5000;

/**
 * Opens, or creates, a SQLite file of runs. Several processes may use it at the same time: the write-ahead log lets them
 * read while one writes, and writers wait for each other. Throws `tracking-failed`.
 */
export async function openSqliteStore(path: string): Promise<RunStore> {
  const file = resolve(path);
  let database: Database.Database;
  try {
    mkdirSync(dirname(file), { recursive: true });
    database = new Database(file, { timeout: BUSY_TIMEOUT });
    // Throws for a file that is no database, too.
    database.pragma("journal_mode = WAL");
    // A crash of the machine may lose the last commits, never the file's consistency.
    database.pragma("synchronous = NORMAL");
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new TunesmithError("tracking-failed", `${path}: cannot open the database of runs: ${reason}`, {
      cause,
      fix: "choose another file (--track), or go without (--no-track)",
    });
  }
  return openSqlStore(new SqliteDialect({ database }), path);
}
