import { TunesmithError } from "../../errors/index.js";
import type { RunRecord, RunStore } from "./types.js";

/**
 * A new run's id: its time, so that ids sort by age, and four random hexadecimal digits.
 *
 * @example
 * ```ts
 * import { newRunId } from "tunesmith/training";
 * console.log(newRunId()); // 20260131-235959-1a2b
 * ```
 */
export function newRunId(now: Date = new Date()): string {
  const digits = now.toISOString().replace(/\D/g, "");
  const random = crypto.getRandomValues(new Uint16Array(1))[0] ?? 0;
  return `${digits.slice(0, 8)}-${digits.slice(8, 14)}-${random.toString(16).padStart(4, "0")}`;
}

/**
 * The run of an id, of the beginning or end of one, of a name, or `last`. Throws `run-not-found`, also when several match.
 *
 * @example
 * ```ts
 * import { findRun, memoryRunStore } from "tunesmith/training";
 * const run = await findRun(memoryRunStore(), "last").catch(() => undefined);
 * ```
 */
export async function findRun(store: RunStore, wanted: string): Promise<RunRecord> {
  const runs = await store.list();
  const [newest] = runs;
  if (wanted === "last" && newest) return newest;
  const exact = runs.filter(({ id, name }) => id === wanted || name === wanted);
  const partly = runs.filter(({ id }) => id.startsWith(wanted) || id.endsWith(wanted));
  const found = exact.length > 0 ? exact : partly;
  const [first] = found;
  if (first && found.length === 1) return first;
  const several = first ? `${found.length} runs match '${wanted}'` : `no run matches '${wanted}'`;
  throw new TunesmithError("run-not-found", `${store.location}: ${several}`, {
    fix: first
      ? `give an id: ${idsOf(found)}`
      : runs.length > 0
        ? `the newest are ${idsOf(runs)}`
        : "it holds no runs: choose another database (--track)",
  });
}

const idsOf = (runs: readonly RunRecord[]): string =>
  runs
    .slice(0, 3)
    .map(({ id }) => id)
    .join(", ");

/** What decides whether a run that is said to be running does. */
export interface Liveness {
  /** This machine, as in `NewRun.host`. */
  readonly host: string;
  /** Whether a process of this machine lives. */
  isAlive(pid: number): boolean;
  readonly now: number;
  /** Without a sign of life for so long, a run of any machine counts as dead. Default 10 minutes. */
  readonly staleAfter?: number;
}

/**
 * Marks runs whose process has died as `interrupted`; gives their ids. One that was only asleep marks itself as running
 * again with its next sign of life.
 *
 * @example
 * ```ts
 * import { markInterrupted, memoryRunStore } from "tunesmith/training";
 * await markInterrupted(memoryRunStore(), { host: "here", isAlive: () => false, now: Date.now() });
 * ```
 */
export async function markInterrupted(store: RunStore, liveness: Liveness): Promise<string[]> {
  const { host, isAlive, now, staleAfter = 600_000 } = liveness;
  const dead = (await store.list()).filter(
    (run) =>
      run.status === "running" &&
      (now - run.heartbeatAt > staleAfter || (run.host === host && !isAlive(run.pid))),
  );
  for (const { id, heartbeatAt } of dead) {
    const error = "its process ended without finishing the run";
    await store.record(id, [], { status: "interrupted", finishedAt: heartbeatAt, error });
  }
  return dead.map(({ id }) => id);
}
