import { PostgresDialect } from "kysely";
import pg from "pg";
import type { RunStore } from "../../training/index.js";
import { withoutPassword } from "./location.js";
import { openSqlStore } from "./sql-store.js";

/**
 * Opens a PostgreSQL database of runs by its URL (`postgres://user@host:5432/name`; a password may also come from
 * PGPASSWORD or ~/.pgpass). The tables are made in the first schema of the search path. Throws `tracking-failed`.
 */
export async function openPostgresStore(url: string): Promise<RunStore> {
  const location = withoutPassword(url);
  const pool = new pg.Pool({ connectionString: url, max: 2, connectionTimeoutMillis: 10_000 });
  // A connection that breaks while it is idle must not end the process; the next query reports it.
  pool.on("error", () => undefined);
  return openSqlStore(new PostgresDialect({ pool }), location);
}
