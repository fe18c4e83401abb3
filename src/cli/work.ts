import { dirname, joinPath, resolvePath, stat } from "#io";
import {
  type LoadDatasetOptions,
  loadDataset,
  openDataset,
  type RowStream,
  readTemplate,
  streamOf,
  type TokenizeOptions,
} from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import { describeQuantization, type QuantizationKind } from "../graph/index.js";
import { formatReceipt, loadAdapter, setTask } from "../methods/index.js";
import {
  type CausalLm,
  exportOnnx,
  type LoadOptions,
  loadModel,
  type Model,
  type ModelFor,
  probeOutputs,
  saveModel,
  sitesOf,
  type Task,
  type Tokenizer,
} from "../models/index.js";
import { checkAdapterTask, taskNumber } from "./adapter-tasks.js";
import { bytesIn, flagOf } from "./config/flags.js";
import type { TrainConfig } from "./config/schema.js";
import { formatBytes, type Progress, type Ui } from "./ui.js";

/** Loads a model; a download shows its progress. */
export async function openModel<T extends Task | "auto" = "causal-lm">(
  path: string,
  ui: Ui,
  signal: AbortSignal,
  task?: T,
  head: Pick<LoadOptions, "labels" | "seed" | "quantize"> = {},
): Promise<ModelFor<T>> {
  let shown: { file: string; bar: Progress } | undefined;
  try {
    const model = await loadModel<T>(path, {
      ...(task === undefined ? {} : { task }),
      ...head,
      signal,
      onProgress({ file, loaded, total }) {
        if (shown?.file !== file) {
          shown?.bar.stop();
          shown = { file, bar: ui.progress(`downloading ${file}`, total) };
        }
        shown.bar.update(loaded, formatBytes(loaded));
      },
    });
    noteQuantization(model, ui);
    return model;
  } finally {
    shown?.bar.stop();
  }
}

/** Says what a quantised model became; nothing for a model of floats. */
export function noteQuantization({ quantization }: Pick<Model, "quantization">, ui: Ui): void {
  if (!quantization) return;
  const { settings, sites, left, floatBytes, keptBytes } = quantization;
  const names = left.slice(0, 3).map(({ path, reason }) => `${path} (${reason})`);
  const rest = left.length > 3 ? `, and ${left.length - 3} more` : "";
  ui.note(
    `${sites.size} linear maps in ${describeQuantization(settings)}: ${formatBytes(floatBytes)} became ${formatBytes(keptBytes)}${
      left.length > 0 ? `; left as they are: ${names.join(", ")}${rest}` : ""
    }`,
  );
}

/** Loads a model, and the adapter on it when one is named. */
export async function openAdapted<T extends Task | "auto" = "causal-lm">(
  options: {
    model: string;
    adapter?: string | undefined;
    anyBase: boolean;
    adapterTask?: string | undefined;
    quantize?: QuantizationKind | undefined;
  },
  ui: Ui,
  signal: AbortSignal,
  task?: T,
): Promise<ModelFor<T>> {
  checkAdapterTask(options);
  const model = await openModel(options.model, ui, signal, task, { quantize: options.quantize });
  const { adapter } = options;
  return adapter === undefined ? model : withAdapter(model, { ...options, adapter }, ui);
}

/** The model with an adapter's folder on it. */
export async function withAdapter<M extends Model>(
  model: M,
  options: { adapter: string; anyBase: boolean; adapterTask?: string | undefined },
  ui: Ui,
): Promise<M> {
  const { tokenizer } = model;
  const chatTemplate = await readTemplate(options.adapter);
  // Conversations are laid out as they were when the adapter was trained.
  const base = tokenizer && chatTemplate ? { ...model, tokenizer: { ...tokenizer, chatTemplate } } : model;
  const adapted = await loadAdapter(base, options.adapter, { anyBase: options.anyBase });
  ui.note(formatReceipt(adapted.receipt));
  if (options.adapterTask !== undefined)
    setTask(adapted, "default", await taskNumber(options.adapter, options.adapterTask));
  return adapted;
}

/** Writes a model without adapters: as a Hugging Face folder, or as ONNX when that is what it came from. */
export async function saveWhole(model: Model, folder: string): Promise<readonly string[]> {
  // A Hugging Face folder holds floats only.
  const isPacked = sitesOf(probeOutputs(model)).some(({ stored }) => stored !== undefined);
  if (model.architecture === "onnx" || isPacked) return (await exportOnnx(model, folder)).files;
  return (await saveModel(model, folder)).files.map((name) => joinPath(folder, name));
}

/**
 * Before a long run whose result is a whole model: it cannot be written over the files the base is read from.
 * Throws `file-write-failed`.
 */
export async function checkOut(base: Model, folder: string): Promise<void> {
  const { origin, architecture } = base;
  if (architecture === "onnx" || origin === undefined) return;
  const home = (await stat(origin)).isDirectory ? origin : dirname(origin);
  if (resolvePath(home) !== resolvePath(folder)) return;
  throw new TunesmithError("file-write-failed", `--out ${folder} is the folder that the model is read from`, {
    fix: "choose another folder",
  });
}

/** An option that only some uses of a command need. Throws `config-invalid` naming its flag. */
export function required<T>(value: T | undefined, key: string): T {
  if (value !== undefined) return value;
  throw new TunesmithError("config-invalid", `${flagOf(key)} is missing`, { fix: `give ${flagOf(key)}` });
}

/** The tokenizer of a model; throws `tokenizer-unsupported` when it has none. */
export function tokenizerOf(model: Model): Tokenizer {
  if (model.tokenizer) return model.tokenizer;
  throw new TunesmithError("tokenizer-unsupported", `${model.origin ?? "the model"} has no tokenizer`, {
    fix: "put its tokenizer files (tokenizer.json, tokenizer.model, ...) beside the model",
  });
}

const DEFAULT_LENGTH = 256;

/** Tokens per row. Throws `config-invalid` for more than the model can read. */
export function rowLength(model: CausalLm, length: number | undefined): number {
  const longest = model.sizes.maxPositions;
  if (length === undefined) return Math.min(DEFAULT_LENGTH, longest);
  if (length <= longest) return length;
  throw new TunesmithError(
    "config-invalid",
    `--length ${length}: the model reads at most ${longest} tokens`,
    {
      fix: `give at most ${longest}`,
    },
  );
}

/** Whether examples share rows; a model that would mix them up gets one per row. */
export const packingFor = (model: CausalLm, wanted?: TrainConfig["packing"]) =>
  wanted ?? (model.packable === false ? "none" : "ffd");

type DataOptions = Pick<
  TrainConfig,
  | "layout"
  | "fields"
  | "format"
  | "encoding"
  | "documentSeparator"
  | "extensions"
  | "maxBytes"
  | "subset"
  | "split"
>;
type TokenOptions = Pick<TrainConfig, "chatTemplate" | "trainOn" | "appendEos">;

export const readData = (path: string, options: DataOptions) => loadDataset(path, loadOptions(options));

/** The same as a stream, for datasets that need not fit into memory. */
export async function openData(
  path: string,
  options: DataOptions & { lenient?: boolean },
): Promise<RowStream> {
  const wanted = { ...loadOptions(options), lenient: options.lenient ?? false };
  return (await openDataset(path, wanted)) ?? streamOf(await loadDataset(path, wanted));
}

/** Options of the command line as `loadDataset` takes them. */
export function loadOptions(options: DataOptions): LoadDatasetOptions {
  const { layout, fields, format, encoding, documentSeparator, extensions, maxBytes, subset, split } =
    options;
  const given = { layout, fields, format, encoding, documentSeparator, extensions, config: subset, split };
  const known = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return {
    ...known,
    ...(maxBytes === undefined ? {} : { maxBytes: bytesIn(maxBytes) }),
  } as LoadDatasetOptions;
}

export function tokenizeOptions({
  chatTemplate,
  trainOn,
  appendEos,
}: TokenOptions): Omit<TokenizeOptions, "maxLength"> {
  return { trainOn, appendEos, ...(chatTemplate === undefined ? {} : { chatTemplate }) };
}

/** Sessions of commands run in a worker, so that bars move and Ctrl-C is heard. */
export const sessionOf = ({
  threads,
  prepack,
}: {
  threads?: number | undefined;
  prepack?: boolean | undefined;
}) => ({
  worker: true,
  // What is not switched off is the runtime's choice.
  ...(prepack === false ? { prepack } : {}),
  ...(threads === undefined ? {} : { threads }),
});

export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new TunesmithError("cancelled", "interrupted");
}
