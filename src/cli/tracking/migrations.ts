import { type Kysely, type Migration, type MigrationProvider, sql } from "kysely";

/** Types that both databases spell alike are left alone; these are not. */
const DOUBLE = sql`double precision`;

const first: Migration = {
  async up(db: Kysely<unknown>) {
    await db.schema
      .createTable("runs")
      .ifNotExists()
      .addColumn("id", "text", (column) => column.primaryKey())
      .addColumn("name", "text", (column) => column.notNull())
      .addColumn("created_at", DOUBLE, (column) => column.notNull())
      .addColumn("finished_at", DOUBLE)
      .addColumn("heartbeat_at", DOUBLE, (column) => column.notNull())
      .addColumn("status", "text", (column) => column.notNull())
      .addColumn("error", "text")
      .addColumn("host", "text", (column) => column.notNull())
      .addColumn("pid", "integer", (column) => column.notNull())
      .addColumn("version", "text", (column) => column.notNull())
      .addColumn("method", "text", (column) => column.notNull())
      .addColumn("model", "text", (column) => column.notNull())
      .addColumn("run_dir", "text", (column) => column.notNull())
      .addColumn("steps", "integer", (column) => column.notNull())
      .addColumn("step", "integer", (column) => column.notNull())
      .addColumn("config", "text", (column) => column.notNull())
      .addColumn("origins", "text", (column) => column.notNull())
      .addColumn("summary", "text", (column) => column.notNull())
      .execute();
    await db.schema
      .createTable("metrics")
      .ifNotExists()
      .addColumn("run_id", "text", (column) => column.notNull().references("runs.id").onDelete("cascade"))
      .addColumn("name", "text", (column) => column.notNull())
      .addColumn("step", "integer", (column) => column.notNull())
      // Null is NaN, which SQLite cannot hold.
      .addColumn("value", DOUBLE)
      .addColumn("time", DOUBLE, (column) => column.notNull())
      .addPrimaryKeyConstraint("metrics_pkey", ["run_id", "name", "step"])
      .execute();
    await db.schema
      .createTable("artifacts")
      .ifNotExists()
      .addColumn("run_id", "text", (column) => column.notNull().references("runs.id").onDelete("cascade"))
      .addColumn("path", "text", (column) => column.notNull())
      .addColumn("kind", "text", (column) => column.notNull())
      .addColumn("step", "integer")
      .addColumn("created_at", DOUBLE, (column) => column.notNull())
      .addColumn("details", "text")
      .addPrimaryKeyConstraint("artifacts_pkey", ["run_id", "path"])
      .execute();
  },
};

/** The schema's history. Released migrations are never changed: a change is another one, with the next number. */
export const migrations: MigrationProvider = {
  getMigrations: async () => ({ "0001-runs": first }),
};
