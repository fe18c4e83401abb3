import { hostname } from "node:os";
import { basename, fileExists, joinPath, makeDir, readText, resolvePath, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  type Evaluation,
  MODEL_CARD_MARK,
  type ModelCardDataset,
  memoryRunStore,
  modelCard,
  type NewRun,
  newRunId,
  openEventFile,
  type PlainData,
  type RunRecord,
  type RunStore,
  startTracker,
  type Tracker,
  type TrainEvent,
} from "../../training/index.js";
import type { Context } from "../command.js";
import type { RunConfig } from "../commands/prepare-run.js";
import type { Ui } from "../ui.js";
import { version } from "../version.js";
import { openForRun, withoutPassword } from "./location.js";
import { isPostgres } from "./open.js";
import { shownValue } from "./text.js";

/** What a finished run has to show. */
export interface Outcome {
  readonly kind: "adapter" | "model" | "onnx";
  readonly before: Evaluation | undefined;
  readonly after: Evaluation | undefined;
  readonly data: ModelCardDataset;
  readonly receipt: object;
  /** The receipt as people read it. */
  readonly receiptText: string;
}

/** A training of the command line as its database of runs sees it. */
export interface Following {
  readonly onEvent: (event: TrainEvent) => void;
  /** The state before the first step. */
  before(evaluation: Evaluation | undefined): void;
  /** Records the result, writes the model card, ends the run. */
  finished(outcome: Outcome): Promise<void>;
  /** The run ended early. */
  ended(error: unknown): Promise<void>;
}

/**
 * Begins to follow a run: its configuration with origins goes to OUT/tunesmith.json and OUT/tunesmith.origins.json, and
 * with everything else to the database of runs. A default database that cannot be opened is noted and gone without;
 * one that was asked for is an error.
 */
export async function followRun(config: RunConfig, steps: number, context: Context): Promise<Following> {
  const { ui, origins } = context;
  await makeDir(config.out);
  const saved = savedConfig(config);
  const kept = Object.fromEntries(Object.keys(saved).map((key) => [key, origins[key] ?? "default"]));
  const write = (name: string, value: object) =>
    writeFileAtomic(joinPath(config.out, name), `${JSON.stringify(value, null, 2)}\n`);
  await write("tunesmith.json", saved);
  await write("tunesmith.origins.json", kept);
  const store = await storeOf(config, ui);
  const runDir = resolvePath(config.runDir ?? joinPath(config.out, ".run"));
  const earlier = config.resume ? continuedRun(await store.list(), runDir) : undefined;
  const run: NewRun = {
    id: earlier?.id ?? newRunId(),
    name: config.runName ?? basename(resolvePath(config.out)),
    createdAt: Date.now(),
    host: hostname(),
    pid: process.pid,
    version: version(),
    method: config.method,
    model: config.model,
    runDir,
    steps,
    config: saved,
    origins: kept,
  };
  let noted = false;
  const tracker = await startTracker({
    store,
    run,
    continued: earlier !== undefined,
    sinks: config.tensorboard === undefined ? [] : [await eventFile(config.tensorboard, run)],
    onError(error) {
      if (!noted) ui.note(`tracking: ${messageOf(error)}; trying again`);
      noted = true;
    },
  });
  return following(config, run, tracker, store, ui);
}

function following(config: RunConfig, run: NewRun, tracker: Tracker, store: RunStore, ui: Ui): Following {
  const close = async (status: "finished" | "failed" | "interrupted", error?: string) => {
    try {
      await tracker.finish(status, error);
    } catch (problem) {
      // What was trained is saved: a lost record is worth a note, not the run.
      ui.note(`tracking: ${messageOf(problem)}`);
    } finally {
      await store.close();
    }
  };
  return {
    onEvent: tracker.onEvent,
    before(evaluation) {
      if (evaluation) tracker.onEvent({ type: "evaluation", step: 0, ...evaluation });
    },
    async finished(outcome) {
      const { kind, receipt } = outcome;
      const details = JSON.parse(JSON.stringify(receipt)) as PlainData;
      const out = resolvePath(config.out);
      const card = config.card ? await writeCard(config, run, outcome) : undefined;
      try {
        await tracker.addArtifact({ kind: kind === "adapter" ? "adapter" : "model", path: out, details });
        await tracker.addArtifact({ kind: "metrics", path: joinPath(run.runDir, "metrics.jsonl") });
        await tracker.addArtifact({ kind: "config", path: joinPath(out, "tunesmith.json") });
        if (card !== undefined) await tracker.addArtifact({ kind: "card", path: card });
      } catch (problem) {
        ui.note(`tracking: ${messageOf(problem)}`);
      }
      await close("finished");
      if (config.track !== false) ui.note(`recorded as ${run.id} in ${store.location}`);
    },
    ended(error) {
      const cancelled = error instanceof TunesmithError && error.code === "cancelled";
      return close(cancelled ? "interrupted" : "failed", messageOf(error));
    },
  };
}

const messageOf = (error: unknown): string =>
  error instanceof Error ? (error.message.split("\n")[0] ?? error.name) : String(error);

/** The configuration as a file that repeats the run; without passwords. */
export function savedConfig(config: RunConfig): Record<string, PlainData> {
  const { resume: _, dryRun: __, track, ...rest } = config;
  const shown = typeof track === "string" && isPostgres(track) ? withoutPassword(track) : track;
  const all = { ...rest, track: shown } as Record<string, PlainData>;
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

async function storeOf({ track }: RunConfig, ui: Ui): Promise<RunStore> {
  // Nothing is kept, but event files are fed all the same.
  const forgetting = { ...memoryRunStore(), record: async () => {} };
  if (track === false) return forgetting;
  try {
    return await openForRun(track);
  } catch (error) {
    if (track !== undefined) throw error;
    ui.note(`tracking: ${messageOf(error)}; this run is not recorded`);
    return forgetting;
  }
}

/** The run that `--resume` goes on with: the newest of this folder. */
const continuedRun = (runs: readonly RunRecord[], runDir: string): RunRecord | undefined =>
  runs.find((run) => run.runDir === runDir);

async function eventFile(folder: string, run: NewRun) {
  // One folder per run is how TensorBoard tells runs apart.
  const events = await openEventFile(joinPath(folder, run.id), { createdAt: run.createdAt });
  await events.text("config", configMarkdown(run.config));
  return events;
}

/** A configuration for TensorBoard's text page. */
export const configMarkdown = (config: Readonly<Record<string, unknown>>): string =>
  ["| option | value |", "| --- | --- |"]
    .concat(
      Object.entries(config).map(
        ([key, value]) => `| ${key} | ${shownValue(value).replaceAll("|", "\\|").replaceAll("\n", " ")} |`,
      ),
    )
    .join("\n");

/** Options about this machine, which a card that is published does not tell. */
const LOCAL = new Set([
  "out",
  "runDir",
  "track",
  "runName",
  "tensorboard",
  "card",
  "license",
  "validation",
  "threads",
]);

/** A hub id as it is; of a path of this machine, only its last part. */
async function publicName(given: string): Promise<{ name: string; hubId?: string }> {
  if (await fileExists(given)) return { name: basename(resolvePath(given)) };
  return /^[\w.-]+(\/[\w.-]+)?$/.test(given) ? { name: given, hubId: given } : { name: given };
}

/** Writes README.md, unless one that is no model card of ours is there. */
async function writeCard(config: RunConfig, run: NewRun, outcome: Outcome): Promise<string | undefined> {
  const path = joinPath(resolvePath(config.out), "README.md");
  if ((await fileExists(path)) && !(await readText(path)).includes(MODEL_CARD_MARK)) return undefined;
  const { before, after, data, kind, receiptText } = outcome;
  const scores = (evaluation: Evaluation | undefined, when: string) =>
    Object.entries(evaluation ? { loss: evaluation.loss, ...evaluation.scores } : {}).map(
      ([name, value]) => [`held-out ${name}, ${when}`, value] as const,
    );
  const [base, source] = [await publicName(config.model), await publicName(data.source)];
  const shared = Object.entries(run.config).filter(([key]) => !LOCAL.has(key));
  const card = modelCard({
    title: run.name,
    kind,
    base: base.name,
    ...(base.hubId === undefined ? {} : { hubBase: base.hubId }),
    method: config.method,
    config: { ...Object.fromEntries(shared), model: base.name, data: source.name },
    data: { ...data, source: source.name, ...(source.hubId === undefined ? {} : { hubId: source.hubId }) },
    metrics: [...scores(before, "before"), ...scores(after, "after")],
    receipt: receiptText,
    ...(config.license === undefined ? {} : { license: config.license }),
    version: run.version,
    runId: run.id,
  });
  await writeFileAtomic(path, card);
  return path;
}
