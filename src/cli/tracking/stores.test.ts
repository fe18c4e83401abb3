import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PGlite } from "@electric-sql/pglite";
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  compareRuns,
  findRun,
  markInterrupted,
  memoryRunStore,
  type NewRun,
  type RunStore,
} from "../../training/index.js";
import { withoutPassword } from "./location.js";
import { openRunStore } from "./open.js";
import { openPostgresStore } from "./postgres.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-runs-"));

/** A PostgreSQL of this process, reached through its wire protocol; TUNESMITH_TEST_POSTGRES names a real server instead. */
async function startPostgres(): Promise<{ url: string; stop: () => Promise<void> }> {
  const given = process.env.TUNESMITH_TEST_POSTGRES;
  if (given) return { url: given, stop: async () => {} };
  const db = await PGlite.create();
  const server = new PGLiteSocketServer({ db, host: "127.0.0.1", port: 0, maxConnections: 4 });
  await server.start();
  const url = `postgres://postgres:postgres@${server.getServerConn()}/postgres?sslmode=disable`;
  const stop = async () => {
    await server.stop();
    await db.close();
  };
  return { url, stop };
}

let postgres: Awaited<ReturnType<typeof startPostgres>>;
beforeAll(async () => {
  postgres = await startPostgres();
}, 60_000);
afterAll(async () => {
  await postgres.stop();
  rmSync(folder, { recursive: true });
});

const newRun = (id: string, more: Partial<NewRun> = {}): NewRun => ({
  id,
  name: `run ${id}`,
  createdAt: 1_700_000_000_000.5,
  host: "here",
  pid: process.pid,
  version: "0.1.0",
  method: "lora",
  model: "gpt2",
  runDir: "/tmp/x/.run",
  steps: 100,
  config: { lr: 1e-3, targets: ["q", "v'; drop table runs; --"], nested: { nothing: null } },
  origins: { lr: "--lr" },
  ...more,
});

const stores: [string, () => Promise<RunStore>][] = [
  ["memory", async () => memoryRunStore()],
  ["SQLite", () => openRunStore(join(folder, "sub", "runs.sqlite"))],
  ["PostgreSQL", () => openRunStore(postgres.url)],
];

describe.each(stores)("%s", (_name, open) => {
  let store: RunStore;
  beforeAll(async () => {
    store = await open();
    await store.remove((await store.list()).map(({ id }) => id));
  });
  afterAll(() => store.close());

  test("a run comes back as it was written", async () => {
    const run = newRun("a");
    await store.create(run);
    const [stored] = await store.list();
    expect(stored).toEqual({
      ...run,
      status: "running",
      heartbeatAt: run.createdAt,
      step: 0,
      summary: {},
      finishedAt: undefined,
      error: undefined,
    });
  });

  test("metrics keep every kind of number, later ones replace earlier ones", async () => {
    const point = (name: string, step: number, value: number) => ({
      name,
      step,
      value,
      time: step * 1000.25,
    });
    const points = [point("loss", 1, 2.5), point("loss", 2, Number.NaN), point("lr", 1, 1e-320)];
    const summary = { loss: Number.POSITIVE_INFINITY, lr: 1e-3 };
    await store.record("a", points, { step: 2, heartbeatAt: 5, summary });
    await store.record("a", [point("loss", 1, 2), point("loss", 3, Number.NEGATIVE_INFINITY)], { step: 3 });
    expect(await store.metrics("a")).toEqual([
      point("loss", 1, 2),
      point("loss", 2, Number.NaN),
      point("loss", 3, Number.NEGATIVE_INFINITY),
      point("lr", 1, 1e-320),
    ]);
    expect(await store.metrics("a", ["lr"])).toHaveLength(1);
    expect(await store.metrics("a", [])).toEqual([]);
    expect((await store.list())[0]).toMatchObject({ step: 3, heartbeatAt: 5, summary });
    await store.dropAfter("a", 1);
    expect((await store.metrics("a")).map(({ step }) => step)).toEqual([1, 1]);
  });

  test("many points in one write", async () => {
    const points = Array.from({ length: 5000 }, (_, step) => ({ name: "x", step, value: step / 7, time: 0 }));
    await store.record("a", points, {});
    expect(await store.metrics("a", ["x"])).toEqual(points);
  });

  test("artifacts, state, removal", async () => {
    await store.addArtifact("a", { kind: "checkpoint", path: "c/1", step: 1, createdAt: 1 });
    await store.addArtifact("a", { kind: "adapter", path: "out", createdAt: 3 });
    const receipt = { kind: "adapter" as const, path: "out", createdAt: 4, details: { changeNorm: 0.25 } };
    await store.addArtifact("a", receipt);
    expect(await store.artifacts("a")).toEqual([
      { kind: "checkpoint", path: "c/1", step: 1, createdAt: 1 },
      receipt,
    ]);
    await store.record("a", [], { status: "failed", finishedAt: 9, error: "loss-not-finite" });
    expect((await store.list())[0]).toMatchObject({
      status: "failed",
      finishedAt: 9,
      error: "loss-not-finite",
    });
    await store.create(newRun("b", { createdAt: 1_800_000_000_000, config: { lr: 2 } }));
    expect((await store.list()).map(({ id }) => id)).toEqual(["b", "a"]);
    expect(compareRuns(await store.list()).config.map(({ key }) => key)).toEqual(["lr", "nested", "targets"]);
    await store.remove(["a"]);
    expect((await store.list()).map(({ id }) => id)).toEqual(["b"]);
  });

  test("an unknown run is an error, twice the same id too", async () => {
    await expect(store.record("none", [], { step: 1 })).rejects.toThrow(/none/);
    await expect(findRun(store, "none")).rejects.toMatchObject({ code: "run-not-found" });
    expect((await findRun(store, "last")).id).toBe("b");
  });

  test("only dead runs are marked as interrupted", async () => {
    await store.create(newRun("here-dead", { pid: 1, createdAt: 1000 }));
    await store.create(newRun("here-alive", { pid: 2, createdAt: 1000 }));
    await store.create(newRun("there-fresh", { pid: 1, createdAt: 1000, host: "there" }));
    await store.create(newRun("there-stale", { pid: 1, createdAt: 10, host: "there" }));
    const liveness = { host: "here", isAlive: (pid: number) => pid !== 1, now: 1500, staleAfter: 1000 };
    const marked = await markInterrupted(store, liveness);
    expect(marked.sort()).toEqual(["here-dead", "there-stale"]);
    const state = new Map((await store.list()).map((run) => [run.id, run] as const));
    expect(state.get("here-dead")).toMatchObject({ status: "interrupted", finishedAt: 1000 });
    expect(state.get("here-alive")).toMatchObject({ status: "running" });
  });
});

test("a database opens again with what it holds, its schema migrated once", async () => {
  for (const location of [join(folder, "again.sqlite"), postgres.url]) {
    const store = await openRunStore(location);
    await store.create(newRun("again", { createdAt: Date.now() }));
    await store.close();
    const second = await openRunStore(location);
    expect((await findRun(second, "again")).config).toEqual(newRun("again").config);
    await second.close();
  }
});

test("what is no database of runs is an error with a fix", async () => {
  const path = join(folder, "text.sqlite");
  writeFileSync(path, "this is not a database, but it is long enough to be read as one".repeat(20));
  await expect(openRunStore(path)).rejects.toMatchObject({ code: "tracking-failed" });
  await expect(openRunStore(join(path, "runs.sqlite"))).rejects.toMatchObject({ code: "tracking-failed" });
  await expect(openRunStore("mysql://host/db")).rejects.toMatchObject({ code: "config-invalid" });
  const refused = await openPostgresStore("postgres://me:hunter2@127.0.0.1:1/db").catch((error) => error);
  expect(refused).toMatchObject({ code: "tracking-failed" });
  expect(String(refused.message)).not.toContain("hunter2");
});

test("a location shows no password", () => {
  expect(withoutPassword("postgres://me:hunter2@db:5432/runs?password=x&sslmode=require")).toBe(
    "postgres://me@db:5432/runs?sslmode=require",
  );
});
