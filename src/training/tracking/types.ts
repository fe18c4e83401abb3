import type { PlainData } from "../exact-json.js";

/** `interrupted`: stopped or killed before its end, so that it may be continued. */
export type RunStatus = "running" | "finished" | "failed" | "interrupted";

/** What is known of a run when it begins. Times are milliseconds since 1970. */
export interface NewRun {
  readonly id: string;
  readonly name: string;
  readonly createdAt: number;
  /** The machine and the process, to find out later whether it still lives. */
  readonly host: string;
  readonly pid: number;
  readonly version: string;
  readonly method: string;
  /** Path or hub id of the base model. */
  readonly model: string;
  /** Folder of checkpoints and metrics: a continued run is found by it. */
  readonly runDir: string;
  /** Steps the run wants to make. */
  readonly steps: number;
  /** The resolved configuration. */
  readonly config: Readonly<Record<string, PlainData>>;
  /** Where each value of it came from. */
  readonly origins: Readonly<Record<string, string>>;
}

/** How far a run has come. */
export interface RunProgress {
  readonly status: RunStatus;
  readonly heartbeatAt: number;
  /** Updates done. */
  readonly step: number;
  /** The latest value of every metric. */
  readonly summary: Readonly<Record<string, number>>;
  /** Undefined while it runs. */
  readonly finishedAt: number | undefined;
  /** Why it failed or stopped. */
  readonly error: string | undefined;
}

/** What may change of a run: its progress, and the process that a continued run moved to. */
export type RunUpdate = Partial<RunProgress & Pick<NewRun, "host" | "pid" | "steps" | "version">>;

/** A run as it is stored. */
export interface RunRecord extends NewRun, RunProgress {}

/** One number of one step; NaN and infinities are kept. */
export interface MetricPoint {
  readonly name: string;
  readonly step: number;
  readonly value: number;
  readonly time: number;
}

/** A file or folder that a run left. */
export interface Artifact {
  readonly kind: "adapter" | "model" | "checkpoint" | "card" | "config" | "metrics";
  readonly path: string;
  readonly step?: number;
  readonly createdAt: number;
  /** What is known about it: a receipt, for example. */
  readonly details?: PlainData;
}

/**
 * Where runs are kept. Every method may be called by several processes at the same time. `memoryRunStore` is one in
 * memory; `openRunStore` of `tunesmith/tracking` opens SQLite files and PostgreSQL databases.
 */
export interface RunStore {
  /** For messages; never holds a password. */
  readonly location: string;
  create(run: NewRun): Promise<void>;
  /** Writes points (one per name and step; later ones replace earlier ones) and what else is new together. */
  record(id: string, points: readonly MetricPoint[], update: RunUpdate): Promise<void>;
  /** Drops what a continued run will write again. */
  dropAfter(id: string, step: number): Promise<void>;
  /** An artifact of the same path is replaced. */
  addArtifact(id: string, artifact: Artifact): Promise<void>;
  /** Newest first. */
  list(): Promise<RunRecord[]>;
  /** Ordered by name and step. */
  metrics(id: string, names?: readonly string[]): Promise<MetricPoint[]>;
  /** Ordered by time. */
  artifacts(id: string): Promise<Artifact[]>;
  /** Removes runs with all that belongs to them; files stay. */
  remove(ids: readonly string[]): Promise<void>;
  close(): Promise<void>;
}
