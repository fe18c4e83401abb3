import { resolvePath } from "#io";
import type { TrainEvent } from "../fit-types.js";
import type { Artifact, MetricPoint, NewRun, RunStatus, RunStore, RunUpdate } from "./types.js";

/** Something else that wants the numbers as they come, such as a TensorBoard file. */
export interface MetricSink {
  write(points: readonly MetricPoint[]): Promise<void>;
  close(): Promise<void>;
}

export interface TrackerOptions {
  readonly store: RunStore;
  readonly run: NewRun;
  /** The run of `run.id` is in the store already and goes on, perhaps in another process. Default false. */
  readonly continued?: boolean;
  readonly sinks?: readonly MetricSink[];
  /** Milliseconds that numbers wait before they are written together. Default 1000. */
  readonly flushEvery?: number;
  /** A store that fails does not end a training: what could not be written is tried again with the next batch. */
  readonly onError?: (error: unknown) => void;
}

/** Follows one run. */
export interface Tracker {
  readonly id: string;
  /** Give it to `train` as `onEvent`, or call it from there. Costs microseconds: numbers are written in batches. */
  readonly onEvent: (event: TrainEvent) => void;
  /** Numbers of your own. */
  log(step: number, values: Readonly<Record<string, number>>): void;
  addArtifact(artifact: Omit<Artifact, "createdAt">): Promise<void>;
  /** Writes what is left and the run's end. Throws what the store throws. */
  finish(status: Exclude<RunStatus, "running">, error?: string): Promise<void>;
}

/** Points kept for another try while a store fails; older ones are given up. */
const MAX_WAITING = 200_000;
/** Rows of one write; databases limit the parameters of a statement. */
const BATCH = 1000;
const HEARTBEAT_MS = 30_000;

/**
 * Follows a training run: metrics, checkpoints, artifacts, state. A heartbeat tells others that it lives, so that a
 * killed run is noticed (`markInterrupted`).
 *
 * @example
 * ```ts
 * import { memoryRunStore, newRunId, startTracker } from "tunesmith/training";
 * const store = memoryRunStore();
 * const run = {
 *   id: newRunId(), name: "first", createdAt: Date.now(), host: "here", pid: 1, version: "1", method: "lora",
 *   model: "gpt2", runDir: "run", steps: 10, config: { lr: 1e-3 }, origins: { lr: "default" },
 * };
 * const tracker = await startTracker({ store, run });
 * tracker.log(1, { loss: 2.5 });
 * await tracker.finish("finished");
 * ```
 */
export async function startTracker(options: TrackerOptions): Promise<Tracker> {
  const { store, run, continued = false } = options;
  if (!continued) await store.create(run);
  const tracking = createWriter(options);
  if (continued) {
    const { host, pid, steps, version } = run;
    const fresh = { status: "running", finishedAt: undefined, error: undefined } as const;
    await tracking.write({ ...fresh, host, pid, steps, version });
  }
  // A continued run that finds no checkpoint begins again, without saying so.
  let mayBegin = continued;
  const log = (step: number, values: Readonly<Record<string, number>>) => tracking.add(step, values);
  return {
    id: run.id,
    log,
    onEvent(event) {
      if (mayBegin && event.type === "step") tracking.resumedAt(event.step - 1);
      if (event.type === "step" || event.type === "resumed") mayBegin = false;
      if (event.type === "resumed") tracking.resumedAt(event.step);
      else if (event.type === "checkpoint") {
        const { step, folder } = event;
        tracking.later(() =>
          store.addArtifact(run.id, artifactOf({ kind: "checkpoint", path: resolvePath(folder), step })),
        );
      } else log(event.step, numbersOf(event));
    },
    addArtifact: (artifact) => store.addArtifact(run.id, artifactOf(artifact)),
    async finish(status, error) {
      try {
        await tracking.finish({ status, error, finishedAt: Date.now() });
      } finally {
        for (const sink of options.sinks ?? []) await sink.close();
      }
    },
  };
}

const artifactOf = (artifact: Omit<Artifact, "createdAt">): Artifact => ({
  ...artifact,
  createdAt: Date.now(),
});

/** The numbers of an event under the names of metrics.jsonl: `loss`, `evalLoss`, `evalPerplexity`. */
function numbersOf({ type, ...values }: TrainEvent): Record<string, number> {
  const { scores = {}, ...rest } = values as { scores?: Readonly<Record<string, number>> };
  const numbers = Object.entries({ ...rest, ...scores }).flatMap(([key, value]: [string, unknown]) => {
    if (NOT_METRICS.has(key) || typeof value !== "number") return [];
    return [[type === "evaluation" ? `eval${key[0]?.toUpperCase()}${key.slice(1)}` : key, value] as const];
  });
  return Object.fromEntries(numbers);
}
const NOT_METRICS = new Set(["step", "steps", "count", "remainingSeconds"]);

function createWriter({ store, run, sinks = [], flushEvery = 1000, onError }: TrackerOptions) {
  let waiting: MetricPoint[] = [];
  let [step, summary]: [number, Record<string, number>] = [0, {}];
  let timer: ReturnType<typeof setTimeout> | undefined;
  /** Everything goes through one queue, so that it arrives in the order in which it happened. */
  let queue: Promise<void> = Promise.resolve();
  const queued = (task: () => Promise<void>): Promise<void> => {
    const done = queue.then(task);
    queue = done.catch(() => undefined);
    return done;
  };
  const later = (task: () => Promise<void>) => {
    queued(task).catch((error) => onError?.(error));
  };

  async function write(progress: RunUpdate): Promise<void> {
    const points = latest(waiting);
    waiting = [];
    const state = { heartbeatAt: Date.now(), step, summary: { ...summary }, ...progress };
    let written = 0;
    try {
      do {
        const part = points.slice(written, written + BATCH);
        await store.record(run.id, part, state);
        for (const sink of sinks) await sink.write(part);
        written += BATCH;
      } while (written < points.length);
    } catch (error) {
      waiting = [...points.slice(written), ...waiting].slice(-MAX_WAITING);
      throw error;
    }
  }

  const alive = () => later(() => write({ status: "running" }));
  const heartbeat = setInterval(alive, HEARTBEAT_MS);
  // In Node, a timer must not keep the process alive.
  (heartbeat as { unref?: () => void }).unref?.();
  const flushSoon = () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      alive();
    }, flushEvery);
  };
  return {
    later,
    write: (progress: RunUpdate) => queued(() => write(progress)),
    add(at: number, values: Readonly<Record<string, number>>) {
      const time = Date.now();
      step = at;
      for (const [name, value] of Object.entries(values)) {
        summary[name] = value;
        waiting.push({ name, step: at, value, time });
      }
      flushSoon();
    },
    resumedAt(at: number) {
      step = at;
      later(() => store.dropAfter(run.id, at));
    },
    finish(progress: RunUpdate) {
      clearTimeout(timer);
      clearInterval(heartbeat);
      return queued(() => write(progress));
    },
  };
}

/** The last of the points of each name and step. */
const latest = (points: readonly MetricPoint[]): MetricPoint[] => [
  ...new Map(points.map((point) => [`${point.name}\n${point.step}`, point] as const)).values(),
];
