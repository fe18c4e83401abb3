import { fileExists, joinPath, listDir, makeDir, readText, remove, writeFileAtomic } from "#io";
import { TunesmithError } from "../errors/index.js";
import type { Tensor } from "../tensor/index.js";
import { openSafetensors, writeSafetensors } from "../tensor/safetensors/index.js";
import { manifestPath, verifyManifest, writeManifest } from "./checkpoint-manifest.js";
import type { EarlyStoppingState } from "./early-stopping.js";
import { differences, hashPlainData, type PlainData, parseExact, stringifyExact } from "./exact-json.js";
import type { FastForwardState } from "./fast-forward.js";
import type { ZeroUpdateState } from "./guards.js";
import type { NoiseScaleState } from "./noise-scale.js";
import { type FlatOptimizerState, flattenOptimizerState } from "./optim/state.js";
import type { OptimizerState, Params } from "./optim/types.js";

const FILES = ["params.safetensors", "optimizer.safetensors", "state.json"] as const;
/** Written when early stopping holds the best parameters, so that a resumed run can still restore them. */
const BEST = "best.safetensors";
/** Tensors that the method changed without training them, now and when the best parameters were measured. */
const [FIXED, BEST_FIXED] = ["fixed.safetensors", "best-fixed.safetensors"];
const VERSION = 1;
/** Ends the names of 8-bit codes in the optimiser's file; their scales have the name itself. */
const BYTES = "#8bit";

/** Where a run stands, besides its weights; plain data, stored exactly. */
export interface RunState {
  /** Updates done. */
  readonly step: number;
  readonly epoch: number;
  /** Position of the data iterator. */
  readonly data?: PlainData;
  /** State of the random number generators. */
  readonly rng?: PlainData;
  /** The schedule's configuration. */
  readonly schedule?: PlainData;
  /** What the method keeps between steps, for example ranks. */
  readonly method?: PlainData;
  /** Metric of the evaluation at this step, by which `keepBest` chooses. */
  readonly metric?: number;
  readonly earlyStopping?: EarlyStoppingState;
  readonly zeroUpdate?: ZeroUpdateState;
  readonly fastForward?: FastForwardState;
  /** What the method kept when the best parameters were measured. */
  readonly bestMethod?: PlainData;
  /** Latest losses, by which spikes are told. */
  readonly losses?: readonly number[];
  readonly noiseScale?: NoiseScaleState;
}

/** Everything a checkpoint holds when it is written. */
export interface CheckpointContent {
  readonly state: RunState;
  /** The trainable parameters; must not change until the write has finished. */
  readonly params: Params;
  /** Shapes of parameters, for readers of the file. Default: one axis. */
  readonly shapes?: ReadonlyMap<string, readonly number[]>;
  readonly optimizer: OptimizerState;
  /** The parameters early stopping holds as the best so far (`EarlyStopping.best()`). */
  readonly best?: Params;
  /** Tensors that the method changed although they are not trained, and as they were with the best parameters. */
  readonly fixed?: ReadonlyMap<string, Tensor>;
  readonly bestFixed?: ReadonlyMap<string, Tensor>;
  /** The run's configuration; a resumed run must have the same one. */
  readonly config: PlainData;
}

/** A checkpoint read back; copy it into a run with `restoreParams` and `restoreOptimizerState`. */
export interface Checkpoint {
  readonly folder: string;
  readonly state: RunState;
  readonly params: Params;
  readonly optimizer: FlatOptimizerState;
  /** For `EarlyStopping.restore`. */
  readonly best: Params | undefined;
  readonly fixed: ReadonlyMap<string, Tensor>;
  readonly bestFixed: ReadonlyMap<string, Tensor>;
  readonly config: PlainData;
  readonly configHash: string;
}

/** Which checkpoints stay after a save. */
export interface KeepOptions {
  /** The latest so many. Default 2. */
  readonly keepLast?: number;
  /** Besides, so many with the best `state.metric`. Default 1. */
  readonly keepBest?: number;
  /** Whether a low or a high metric is good. Default "min". */
  readonly mode?: "min" | "max";
}

/** A checkpoint that cannot be used, and why. */
export interface SkippedCheckpoint {
  readonly folder: string;
  readonly reason: string;
}

/**
 * Writes `runDir/checkpoints/step-000120/` with params.safetensors, optimizer.safetensors, state.json and, last
 * of all, manifest.json with their sizes and hashes. A crash at any moment leaves either a complete checkpoint or one
 * without manifest, which `loadLatest` skips. Then older checkpoints are pruned; those of later steps are removed,
 * since a run that was resumed from an earlier step has left them behind.
 *
 * @returns The folder.
 * @throws `file-write-failed`, `config-invalid` for state that is not plain data.
 *
 * @example
 * ```ts
 * import { adamw, saveCheckpoint } from "tunesmith/training";
 * const params = new Map([["w", Float32Array.of(1, 2)]]);
 * const optimizer = adamw({ lr: 1e-3 }).init(params);
 * const config = { optimizer: { name: "adamw", lr: 1e-3 } };
 * await saveCheckpoint("run", { state: { step: 120, epoch: 1 }, params, optimizer, config });
 * ```
 */
export async function saveCheckpoint(
  runDir: string,
  content: CheckpointContent,
  keep: KeepOptions = {},
): Promise<string> {
  const { state, params, shapes, config, best } = content;
  if (!Number.isSafeInteger(state.step) || state.step < 0) {
    throw new TunesmithError("config-invalid", `checkpoint step is ${state.step}`, {
      fix: "give the number of updates done",
    });
  }
  const optimizer = flattenOptimizerState(content.optimizer);
  const stored = {
    formatVersion: VERSION,
    configHash: await hashPlainData(config, "config"),
    config,
    optimizerScalars: optimizer.scalars,
    state,
  };
  const text = stringifyExact(stored, "checkpoint", 2);
  const folder = folderOf(runDir, state.step);
  // The manifest goes first: without it the rest of an older folder of this step counts as incomplete.
  await remove(manifestPath(folder));
  await remove(folder);
  await makeDir(folder);
  await writeSafetensors(joinPath(folder, FILES[0]), tensors(params, shapes));
  await writeSafetensors(joinPath(folder, FILES[1]), optimizerTensors(optimizer));
  await writeFileAtomic(joinPath(folder, FILES[2]), `${text}\n`);
  const more: [string, Iterable<readonly [string, Tensor]>][] = [
    ...(best ? ([[BEST, tensors(best, shapes)]] as const) : []),
    ...(content.fixed?.size ? ([[FIXED, content.fixed]] as const) : []),
    ...(content.bestFixed?.size ? ([[BEST_FIXED, content.bestFixed]] as const) : []),
  ].map(([name, values]) => [name, values]);
  for (const [name, values] of more) await writeSafetensors(joinPath(folder, name), values);
  await writeManifest(folder, [...FILES, ...more.map(([name]) => name)]);
  await prune(runDir, state.step, keep);
  return folder;
}

function* tensors(
  values: Params,
  shapes?: ReadonlyMap<string, readonly number[]>,
): Generator<readonly [string, { dtype: "float32"; shape: readonly number[]; data: Float32Array }]> {
  for (const [name, data] of values) {
    yield [name, { dtype: "float32", shape: shapes?.get(name) ?? [data.length], data }];
  }
}

function* optimizerTensors({
  tensors: floats,
  bytes,
}: FlatOptimizerState): Generator<readonly [string, Tensor]> {
  yield* tensors(floats);
  for (const [name, data] of bytes ?? []) {
    yield [name + BYTES, { dtype: "uint8", shape: [data.length], data }];
  }
}

/** The steps that have a checkpoint folder, complete or not, ascending. An absent run folder has none. */
export async function listCheckpoints(runDir: string): Promise<number[]> {
  const parent = joinPath(runDir, "checkpoints");
  if (!(await fileExists(parent))) return [];
  const steps = (await listDir(parent)).map((name) => /^step-(\d{6,15})$/.exec(name)?.[1]);
  return steps
    .filter((digits) => digits !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

/**
 * Reads the latest complete checkpoint. Incomplete or damaged ones are skipped and reported.
 *
 * @param options.config The configuration of the run that resumes; compared with the stored one.
 * @param options.mayDiffer Dotted configuration keys that may differ, with everything below them, for example
 *   `training.steps` to train longer.
 * @returns `checkpoint` is undefined when there is none to use; `skipped` says which were passed over and why.
 * @throws `checkpoint-mismatch` naming the configuration keys that differ, `format-unsupported` for a later format.
 *
 * @example
 * ```ts
 * import { adamw, loadLatest, restoreOptimizerState, restoreParams } from "tunesmith/training";
 * const params = new Map([["w", new Float32Array(2)]]);
 * const state = adamw({ lr: 1e-3 }).init(params);
 * const { checkpoint, skipped } = await loadLatest("run", { config: { optimizer: { name: "adamw", lr: 1e-3 } } });
 * for (const { folder, reason } of skipped) console.warn(folder, reason);
 * if (checkpoint) {
 *   restoreParams(params, checkpoint.params);
 *   restoreOptimizerState(state, checkpoint.optimizer);
 * }
 * ```
 */
export async function loadLatest(
  runDir: string,
  options: { config?: PlainData; mayDiffer?: readonly string[] } = {},
): Promise<{ readonly checkpoint: Checkpoint | undefined; readonly skipped: readonly SkippedCheckpoint[] }> {
  const skipped: SkippedCheckpoint[] = [];
  for (const step of (await listCheckpoints(runDir)).reverse()) {
    try {
      const checkpoint = await loadCheckpoint(runDir, step);
      if (options.config !== undefined) checkConfig(checkpoint, options.config, options.mayDiffer ?? []);
      return { checkpoint, skipped };
    } catch (error) {
      if (!isDamage(error)) throw error;
      skipped.push({ folder: folderOf(runDir, step), reason: reasonOf(error) });
    }
  }
  return { checkpoint: undefined, skipped };
}

/**
 * Reads and verifies the checkpoint of one step.
 *
 * @throws `file-not-found`, `file-corrupt`, `checksum-mismatch` or `format-unsupported`, naming the file.
 */
export async function loadCheckpoint(runDir: string, step: number): Promise<Checkpoint> {
  const folder = folderOf(runDir, step);
  if (!(await fileExists(manifestPath(folder)))) {
    throw new TunesmithError(
      "file-not-found",
      `${folder}: no complete checkpoint (it has no manifest.json)`,
      {
        fix: "use another step; this one was never written, or its writing was interrupted",
        details: { folder },
      },
    );
  }
  const names = await verifyManifest(folder, FILES);
  const { state, config, configHash, optimizerScalars } = await readState(folder);
  return {
    folder,
    state,
    config,
    configHash,
    params: await readParams(joinPath(folder, FILES[0])),
    optimizer: { ...(await readOptimizer(joinPath(folder, FILES[1]))), scalars: optimizerScalars },
    best: names.includes(BEST) ? await readParams(joinPath(folder, BEST)) : undefined,
    fixed: names.includes(FIXED) ? await readTensors(joinPath(folder, FIXED)) : new Map(),
    bestFixed: names.includes(BEST_FIXED) ? await readTensors(joinPath(folder, BEST_FIXED)) : new Map(),
  };
}

interface StoredState {
  readonly state: RunState;
  readonly config: PlainData;
  readonly configHash: string;
  readonly optimizerScalars: Readonly<Record<string, number>>;
}

async function readState(folder: string): Promise<StoredState> {
  const path = joinPath(folder, FILES[2]);
  const stored = parseExact(await readText(path), path);
  if (typeof stored !== "object" || stored === null || !("state" in stored)) {
    throw new TunesmithError("file-corrupt", `${path}: not the state of a run`, {
      fix: "use an older checkpoint",
    });
  }
  // The manifest's hash has shown that these bytes are what saveCheckpoint wrote.
  return stored as unknown as StoredState;
}

async function readTensors(path: string): Promise<Map<string, Tensor>> {
  const file = await openSafetensors(path);
  try {
    const values = new Map<string, Tensor>();
    for (const name of file.entries.keys()) values.set(name, await file.read(name));
    return values;
  } finally {
    await file.close();
  }
}

async function readParams(path: string): Promise<Params> {
  const { tensors: params, bytes } = await readOptimizer(path);
  if (bytes.size > 0) throw wrongDtype(path, [...bytes.keys()][0]);
  return params;
}

async function readOptimizer(path: string) {
  const file = await openSafetensors(path);
  try {
    const values = new Map<string, Float32Array>();
    const bytes = new Map<string, Uint8Array>();
    for (const name of file.entries.keys()) {
      const { dtype, data } = await file.read(name);
      if (data instanceof Float32Array) values.set(name, data);
      else if (dtype === "uint8" && data instanceof Uint8Array && name.endsWith(BYTES)) {
        bytes.set(name.slice(0, -BYTES.length), data);
      } else throw wrongDtype(path, name);
    }
    return { tensors: values, bytes };
  } finally {
    await file.close();
  }
}

const wrongDtype = (path: string, name: string | undefined): TunesmithError =>
  new TunesmithError("file-corrupt", `${path}: '${name}' is not float32`, { fix: "use an older checkpoint" });

function checkConfig(checkpoint: Checkpoint, config: PlainData, mayDiffer: readonly string[]): void {
  const allowed = (path: string): boolean =>
    mayDiffer.some((key) => path === key || path.startsWith(`${key}.`));
  const changes = differences(checkpoint.config, config).filter(({ path }) => !allowed(path));
  if (changes.length === 0) return;
  const list = changes.map(({ path, before, after }) => `${path}: ${before} -> ${after}`).join("; ");
  throw new TunesmithError(
    "checkpoint-mismatch",
    `${checkpoint.folder} was written with another configuration: ${list}`,
    {
      fix: "resume with the stored values, or start a new run folder",
      details: { folder: checkpoint.folder, keys: changes.map(({ path }) => path) },
    },
  );
}

async function prune(runDir: string, current: number, keep: KeepOptions): Promise<void> {
  const { keepLast = 2, keepBest = 1, mode = "min" } = keep;
  const complete: { step: number; metric: number }[] = [];
  const doomed: number[] = [];
  for (const step of await listCheckpoints(runDir)) {
    const folder = folderOf(runDir, step);
    const usable = step <= current && (await fileExists(manifestPath(folder)));
    const metric = usable ? await metricOf(folder) : undefined;
    if (metric === undefined) doomed.push(step);
    else complete.push({ step, metric });
  }
  const sign = mode === "min" ? 1 : -1;
  const ranked = complete
    .filter(({ metric }) => !Number.isNaN(metric))
    .sort((a, b) => sign * (a.metric - b.metric) || a.step - b.step);
  const kept = new Set([
    current,
    ...complete.slice(-Math.max(1, keepLast)).map(({ step }) => step),
    ...ranked.slice(0, keepBest).map(({ step }) => step),
  ]);
  doomed.push(...complete.map(({ step }) => step).filter((step) => !kept.has(step)));
  for (const step of doomed) {
    const folder = folderOf(runDir, step);
    await remove(manifestPath(folder));
    await remove(folder);
  }
}

/** The metric of a checkpoint, NaN for one without; undefined when its state cannot be read. */
async function metricOf(folder: string): Promise<number | undefined> {
  try {
    return (await readState(folder)).state.metric ?? Number.NaN;
  } catch (error) {
    if (isDamage(error)) return undefined;
    throw error;
  }
}

function folderOf(runDir: string, step: number): string {
  return joinPath(runDir, "checkpoints", `step-${String(step).padStart(6, "0")}`);
}

function isDamage(error: unknown): boolean {
  const damage = ["file-not-found", "file-corrupt", "checksum-mismatch"];
  return error instanceof TunesmithError && damage.includes(error.code);
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
}
