import { dirname, fileExists, joinPath, readText, stat, writeFileAtomic } from "#io";
import { type Layout, labelNames, type Row } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { QuantizationKind } from "../../graph/index.js";
import { type Model, sequenceHead, type Task, type TensorModel } from "../../models/index.js";
import { namesIn } from "../../training/index.js";
import { checkAdapterTask } from "../adapter-tasks.js";
import type { Ui } from "../ui.js";
import { openModel, withAdapter } from "../work.js";

/** What a model was made for, kept beside an adapter whose base does not say it. */
interface TaskRecord {
  readonly task: Task;
  readonly labels?: readonly string[] | undefined;
  /** Seed of a fresh head. */
  readonly seed: number;
}

const TASK_FILE = "task.json";

/** Writes the task and the classes beside what was trained; a language model needs neither. */
export async function recordTask(base: Model, { out, seed }: { out: string; seed: number }): Promise<void> {
  if (base.task === "causal-lm") return;
  const record: TaskRecord = { task: base.task, labels: base.labels, seed };
  await writeFileAtomic(joinPath(out, TASK_FILE), `${JSON.stringify(record, null, 2)}\n`);
}

/** The model with its adapter, for the task that the adapter was trained for, or that is asked for. */
export async function openForTask(
  options: {
    model: string;
    adapter?: string | undefined;
    anyBase: boolean;
    adapterTask?: string | undefined;
    for?: Task | undefined;
    quantize?: QuantizationKind | undefined;
  },
  ui: Ui,
  signal: AbortSignal,
): Promise<Model> {
  checkAdapterTask(options);
  const { adapter } = options;
  const record = adapter === undefined ? undefined : await recordIn(adapter);
  const task = options.for ?? record?.task ?? "auto";
  const base = await openWithHead(options.model, { ...record, task, quantize: options.quantize }, ui, signal);
  return adapter === undefined ? base : withAdapter(base, { ...options, adapter }, ui);
}

async function recordIn(folder: string): Promise<TaskRecord | undefined> {
  const path = joinPath(folder, TASK_FILE);
  if (!(await fileExists(path))) return undefined;
  try {
    return JSON.parse(await readText(path)) as TaskRecord;
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${path} is no JSON`, {
      fix: "train again, or delete the file and name the task",
      details: { cause: String(cause) },
    });
  }
}

/** A model for a task; a causal language model gets a head over sequences. */
export async function openWithHead(
  path: string,
  wanted: {
    readonly task: Task | "auto";
    readonly labels?: readonly string[] | undefined;
    readonly seed?: number;
    readonly quantize?: QuantizationKind | undefined;
  },
  ui: Ui,
  signal: AbortSignal,
): Promise<Model> {
  const { task, labels, seed, quantize } = wanted;
  const sequence = task === "sequence-classification" || task === "regression";
  const plain = sequence ? await openModel(path, ui, signal, "auto", { quantize }) : undefined;
  if (plain?.task === "causal-lm") {
    return sequenceHead(plain, {
      labels: labels ?? (task === "regression" ? 1 : 2),
      ...(seed === undefined ? {} : { seed }),
    });
  }
  const head = { labels, seed };
  if (quantize === undefined) return openModel(path, ui, signal, task, head);
  // A head that the file does not have is trained whole, which codes cannot be.
  const own = await openModel(path, ui, signal, "auto");
  const exclude = freshModules(own, await openModel(path, ui, signal, task, head));
  return openModel(path, ui, signal, task, { ...head, quantize: { kind: quantize, exclude } });
}

/** The task that rows of a layout are of; undefined where they are of none. */
const TASK_OF: Partial<Record<Layout, Task>> = {
  text: "masked-lm",
  completion: "seq2seq",
  alpaca: "seq2seq",
  classification: "sequence-classification",
  tags: "token-classification",
  similarity: "embedding",
  image: "image-classification",
  audio: "audio-classification",
};

/** Tasks that rows of a layout can be used for. */
const FITS: Partial<Record<Layout, readonly Task[]>> = {
  classification: ["sequence-classification", "regression", "embedding"],
};

/** The task of a run: what is asked for, the model's own if the rows fit it, else that of the rows. */
export function taskOfRun(own: Task, layout: Layout, wanted: Task | undefined): Task {
  if (wanted !== undefined) return wanted;
  const task = TASK_OF[layout];
  if (task === undefined || own === task || FITS[layout]?.includes(own)) return own;
  return task;
}

/**
 * The classes that `--head` asks for: names, or how many, which are called as `found` in the data where that names
 * them. Throws `config-invalid` for a model that has none, and for fewer than there are in the data.
 */
export function classesIn(
  head: readonly string[] | undefined,
  model: Model,
  found: readonly (string | number)[] = [],
): readonly string[] | undefined {
  if (head === undefined) return undefined;
  if (!model.task.endsWith("-classification")) {
    throw new TunesmithError("config-invalid", `--head is of classifiers, not of ${model.task}`, {
      fix: "leave it out, or name a classification in --task",
    });
  }
  const [only] = head;
  if (head.length > 1 || only === undefined || !/^\d+$/.test(only)) return head;
  const count = Number(only);
  const numbered = found.every((name) => typeof name === "number");
  if (!numbered && found.length > count) {
    throw new TunesmithError(
      "config-invalid",
      `--head ${count}, and there are ${found.length} classes in the data: ${found.slice(0, 8).join(", ")}`,
      { fix: `give --head ${found.length} or more, or leave it out` },
    );
  }
  return Array.from({ length: count }, (_, at) =>
    String((numbered ? undefined : found[at]) ?? `LABEL_${at}`),
  );
}

/** The classes of rows as they are called there, in order. */
export const classNames = (rows: readonly Row[], multiLabel: boolean): readonly (string | number)[] => {
  const found = labelNames(rows);
  return multiLabel ? [...new Set(found.flatMap(namesIn))].sort() : found;
};

/** Classes of the rows that the model does not have yet; undefined when it has them all. */
export function newLabels(
  model: Model,
  rows: readonly Row[],
  multiLabel: boolean,
): readonly string[] | undefined {
  if (model.task === "causal-lm" || !model.task.endsWith("-classification")) return undefined;
  const known = model.labels ?? [];
  const found = labelNames(rows);
  const names = classNames(rows, multiLabel).map(String);
  const numbered = known.every((name) => /^LABEL_\d+$/.test(name));
  const inRange = found.every(
    (label) => typeof label === "number" && Number.isInteger(label) && label >= 0 && label < known.length,
  );
  return names.every((name) => known.includes(name)) || (numbered && inRange && !multiLabel)
    ? undefined
    : names;
}

/** Modules whose weights the file does not have: a fresh head, to be trained whole. */
export function freshModules(own: Model, model: Model): string[] {
  const fresh = [...model.weights].filter(
    ([name, { shape }]) => own.weights.get(name)?.shape.join() !== shape.join(),
  );
  const renamed = (name: string) => name.replace(/\.(weight|bias)$/, "");
  const bodies = [...own.weights.keys()].map((name) => renamed(name));
  return [...new Set(fresh.map(([name]) => renamed(name)))].filter(
    // A body keeps its weights under another prefix.
    (name) => !bodies.some((body) => name.endsWith(`.${body}`) || body.endsWith(`.${name}`)),
  );
}

/** The model's preprocessor_config.json, where there is one. */
export async function processorOf({ origin }: TensorModel): Promise<Record<string, unknown> | undefined> {
  if (origin === undefined) return undefined;
  const folder = (await stat(origin)).isDirectory ? origin : dirname(origin);
  const path = joinPath(folder, "preprocessor_config.json");
  return (await fileExists(path)) ? (JSON.parse(await readText(path)) as Record<string, unknown>) : undefined;
}
