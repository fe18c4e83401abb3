import { type Dialect, type Insertable, Kysely, Migrator, type Selectable } from "kysely";
import { TunesmithError } from "../../errors/index.js";
import {
  type Artifact,
  type MetricPoint,
  type NewRun,
  parseExact,
  type RunRecord,
  type RunStatus,
  type RunStore,
  type RunUpdate,
  stringifyExact,
} from "../../training/index.js";
import { migrations } from "./migrations.js";

interface RunsTable {
  id: string;
  name: string;
  created_at: number;
  finished_at: number | null;
  heartbeat_at: number;
  status: string;
  error: string | null;
  host: string;
  pid: number;
  version: string;
  method: string;
  model: string;
  run_dir: string;
  steps: number;
  step: number;
  config: string;
  origins: string;
  summary: string;
}
interface MetricsTable {
  run_id: string;
  name: string;
  step: number;
  value: number | null;
  time: number;
}
interface ArtifactsTable {
  run_id: string;
  path: string;
  kind: string;
  step: number | null;
  created_at: number;
  details: string | null;
}
interface Database {
  runs: RunsTable;
  metrics: MetricsTable;
  artifacts: ArtifactsTable;
}

/** Rows of one INSERT: SQLite allows 32,766 parameters. */
const ROWS = 2000;

/**
 * A store of runs in a database that Kysely speaks to: one code for SQLite and PostgreSQL. Brings the schema up to date.
 * Throws `tracking-failed`.
 */
export async function openSqlStore(dialect: Dialect, location: string): Promise<RunStore> {
  const db = new Kysely<Database>({ dialect });
  const guarded = async <T>(what: string, task: () => Promise<T>): Promise<T> => {
    try {
      return await task();
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message || cause.name : String(cause);
      throw new TunesmithError("tracking-failed", `${location}: cannot ${what}: ${reason}`, {
        cause,
        fix: "check that the database is there and can be written, or choose another (--track)",
      });
    }
  };
  try {
    await guarded("open it", () => migrate(db));
  } catch (error) {
    await db.destroy().catch(() => undefined);
    throw error;
  }
  return {
    location,
    create: (run) => guarded("write a run", () => insertRun(db, run)),
    record: (id, points, update) => guarded("write metrics", () => record(db, id, points, update)),
    dropAfter: (id, step) =>
      guarded("drop metrics", async () => {
        await db.deleteFrom("metrics").where("run_id", "=", id).where("step", ">", step).execute();
      }),
    addArtifact: (id, artifact) => guarded("write an artifact", () => insertArtifact(db, id, artifact)),
    list: () =>
      guarded("read runs", async () => {
        const rows = await db.selectFrom("runs").selectAll().orderBy("created_at", "desc").execute();
        return rows.map(runOf);
      }),
    metrics: (id, names) => guarded("read metrics", () => selectMetrics(db, id, names)),
    artifacts: (id) => guarded("read artifacts", () => selectArtifacts(db, id)),
    remove: (ids) => guarded("remove runs", () => removeRuns(db, ids)),
    close: () => db.destroy(),
  };
}

/** Two processes may both find an empty database; whoever comes second finds it migrated at the second look. */
async function migrate(db: Kysely<Database>): Promise<void> {
  const migrator = new Migrator({
    db,
    provider: migrations,
    migrationTableName: "tunesmith_migrations",
    migrationLockTableName: "tunesmith_migrations_lock",
  });
  for (let tries = 1; ; tries++) {
    const { error } = await migrator.migrateToLatest();
    if (error === undefined) return;
    if (tries === 5) throw error;
    await new Promise((resolve) => setTimeout(resolve, 50 * tries));
  }
}

async function insertRun(db: Kysely<Database>, run: NewRun): Promise<void> {
  const { createdAt, runDir, config, origins, ...rest } = run;
  const row: Insertable<RunsTable> = {
    ...rest,
    created_at: createdAt,
    finished_at: null,
    heartbeat_at: createdAt,
    status: "running",
    error: null,
    run_dir: runDir,
    step: 0,
    config: exactText(config),
    origins: exactText(origins),
    summary: "{}",
  };
  await db.insertInto("runs").values(row).execute();
}

async function record(
  db: Kysely<Database>,
  id: string,
  points: readonly MetricPoint[],
  update: RunUpdate,
): Promise<void> {
  await db.transaction().execute(async (transaction) => {
    // The write that fails for an unknown run stands first: a transaction of SQLite that begins with a write can wait.
    const { numUpdatedRows } = await transaction
      .updateTable("runs")
      .set({ ...updatedColumns(update), id })
      .where("id", "=", id)
      .executeTakeFirst();
    if (numUpdatedRows === 0n) throw new Error(`there is no run ${id}`);
    for (let at = 0; at < points.length; at += ROWS) {
      const rows = points.slice(at, at + ROWS).map(({ name, step, value, time }) => ({
        ...{ run_id: id, name, step, time },
        value: Number.isNaN(value) ? null : value,
      }));
      await transaction
        .insertInto("metrics")
        .values(rows)
        .onConflict((conflict) =>
          conflict.columns(["run_id", "name", "step"]).doUpdateSet((row) => ({
            value: row.ref("excluded.value"),
            time: row.ref("excluded.time"),
          })),
        )
        .execute();
    }
  });
}

function updatedColumns({ heartbeatAt, summary, ...update }: RunUpdate) {
  const { finishedAt, error, ...same } = update;
  return {
    ...same,
    ...(heartbeatAt === undefined ? {} : { heartbeat_at: heartbeatAt }),
    ...(summary === undefined ? {} : { summary: exactText(summary) }),
    ...("finishedAt" in update ? { finished_at: finishedAt ?? null } : {}),
    ...("error" in update ? { error: error ?? null } : {}),
  };
}

async function insertArtifact(db: Kysely<Database>, id: string, artifact: Artifact): Promise<void> {
  const { kind, path, step, createdAt, details } = artifact;
  const rest = {
    kind,
    step: step ?? null,
    created_at: createdAt,
    details: details === undefined ? null : exactText(details),
  };
  await db
    .insertInto("artifacts")
    .values({ run_id: id, path, ...rest })
    .onConflict((conflict) => conflict.columns(["run_id", "path"]).doUpdateSet(rest))
    .execute();
}

async function selectMetrics(
  db: Kysely<Database>,
  id: string,
  names: readonly string[] | undefined,
): Promise<MetricPoint[]> {
  if (names?.length === 0) return [];
  const all = db.selectFrom("metrics").select(["name", "step", "value", "time"]).where("run_id", "=", id);
  const wanted = names ? all.where("name", "in", [...names]) : all;
  const rows = await wanted.orderBy("name").orderBy("step").execute();
  return rows.map(({ name, step, value, time }) => ({ name, step, value: value ?? Number.NaN, time }));
}

async function selectArtifacts(db: Kysely<Database>, id: string): Promise<Artifact[]> {
  const rows = await db
    .selectFrom("artifacts")
    .selectAll()
    .where("run_id", "=", id)
    .orderBy("created_at")
    .execute();
  return rows.map(({ kind, path, step, created_at, details }) => ({
    kind: kind as Artifact["kind"],
    path,
    createdAt: created_at,
    ...(step === null ? {} : { step }),
    ...(details === null ? {} : { details: exactValue(details) as NonNullable<Artifact["details"]> }),
  }));
}

/** Plain data as text that keeps NaN and the infinities. */
const exactText = (value: unknown) => stringifyExact(value, "a run");
const exactValue = (text: string) => parseExact(text, "a run");

/** The children go first and by name: SQLite obeys foreign keys only when each connection asks for it. */
async function removeRuns(db: Kysely<Database>, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await db.transaction().execute(async (transaction) => {
    for (const table of ["metrics", "artifacts"] as const)
      await transaction
        .deleteFrom(table)
        .where("run_id", "in", [...ids])
        .execute();
    await transaction
      .deleteFrom("runs")
      .where("id", "in", [...ids])
      .execute();
  });
}

const runOf = (row: Selectable<RunsTable>): RunRecord => ({
  id: row.id,
  name: row.name,
  createdAt: row.created_at,
  finishedAt: row.finished_at ?? undefined,
  heartbeatAt: row.heartbeat_at,
  status: row.status as RunStatus,
  error: row.error ?? undefined,
  host: row.host,
  pid: row.pid,
  version: row.version,
  method: row.method,
  model: row.model,
  runDir: row.run_dir,
  steps: row.steps,
  step: row.step,
  config: exactValue(row.config) as RunRecord["config"],
  origins: exactValue(row.origins) as RunRecord["origins"],
  summary: exactValue(row.summary) as RunRecord["summary"],
});
