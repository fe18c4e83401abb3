import { fileExists, listDir, stat } from "#io";
import { TunesmithError } from "../errors/index.js";
import type { Model } from "../models/index.js";
import { type Adapted, adaptedModel, isAdapted } from "./adapted.js";
import { type Adapter, createAdapter } from "./adapter.js";
import type { Calibration } from "./calibration.js";
import { type AdapterFileOptions, readAdapterFile } from "./formats/files.js";
import type { Adaptation, SiteConfig } from "./method.js";
import { parsePeftConfig } from "./peft/config.js";
import { adapterOf, type LoadAdapterOptions, type ReadAdapter, readPeft } from "./peft/load.js";
import { savePeft } from "./peft/save.js";
import { withOwnBase } from "./quantised/own-base.js";
import { checkEffect, type Receipt, type Receipted, receiptOf } from "./receipt.js";

export interface AdaptOptions {
  /** Name of the adapter. Default "default". */
  readonly name?: string;
  /** Seed of its initialisation. Default 0. */
  readonly seed?: number;
  /** Statistics for starts that depend on data; see `calibrate`. */
  readonly calibration?: Calibration | undefined;
}

/**
 * Puts a fresh adapter on a model; adapters already there stay active below it. The base is not changed.
 *
 * Throws `target-not-found`, `target-unsupported`, `config-invalid`, `name-conflict`, `calibration-missing`.
 *
 * @example
 * ```ts
 * import { adapt, lora } from "tunesmith/methods";
 * import { loadFolder } from "tunesmith/models";
 * const model = await adapt(await loadFolder("path/to/model"), lora({ rank: 8, targets: ["q_proj", "v_proj"] }));
 * console.log(model.parameters.size);
 * ```
 */
export async function adapt<M extends Model, Config extends SiteConfig>(
  model: M,
  adaptation: Adaptation<Config>,
  options: AdaptOptions = {},
): Promise<Adapted<M>> {
  const base = isAdapted(model) ? model.base : model;
  const { name = "default", seed = 0, calibration } = options;
  const adapter = await createAdapter(base, adaptation as unknown as Adaptation, { name, seed, calibration });
  return withAdapter(model, adapter);
}

/**
 * Loads an adapter onto a model, and checks what it does there: the receipt says what changed. It may be a PEFT folder, or a
 * LoRA adapter of any format that `readAdapterFile` knows.
 *
 * Throws as `loadPeft`; `adapter-no-effect` when no weight changes; `adapter-invalid` for tensors that are not finite.
 *
 * @example
 * ```ts
 * import { formatReceipt, loadAdapter } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const model = await loadAdapter(await loadModel("path/to/model"), "path/to/adapter");
 * console.log(formatReceipt(model.receipt));
 * ```
 */
export async function loadAdapter<M extends Model>(
  model: M,
  folder: string,
  options: LoadAdapterOptions & EffectOptions & AdapterFileOptions = {},
): Promise<Adapted<M> & Receipted> {
  const base = isAdapted(model) ? model.base : model;
  const own = await withOwnBase(base, folder);
  if (own !== base && isAdapted(model)) throw belowOthers(folder);
  const { adapter, warnings } = await readAny(own, folder, options);
  const adapted = withAdapter(own === base ? model : own, adapter);
  const receipt = await receiptOf(adapted, { adapter: adapter.name, action: "load", warnings });
  if (!options.allowNoEffect) checkEffect(receipt);
  return Object.assign({}, adapted, { receipt });
}

const belowOthers = (folder: string) =>
  new TunesmithError(
    "wrong-base",
    `${folder} brings quantised weights of its own, and other adapters are on the model`,
    {
      fix: "load it on the plain model, and others on what comes back",
    },
  );

/** PEFT folders are read lazily; other formats are converted in memory. */
async function readAny(
  base: Model,
  path: string,
  options: LoadAdapterOptions & AdapterFileOptions,
): Promise<ReadAdapter> {
  const isFolder = !(await fileExists(path)) || (await stat(path)).isDirectory;
  const names = isFolder && (await fileExists(path)) ? await listDir(path) : [];
  const isOther = names.includes("adapters.safetensors") || names.includes("adapter_model.bin");
  if (isFolder && !isOther) return readPeft(base, path, options);
  const { components, format } = await readAdapterFile(path, { ...sizesFor(base), ...options });
  const [only] = components.values();
  if (!only || components.size > 1) {
    throw new TunesmithError(
      "adapter-invalid",
      `${path} adapts several models: ${[...components.keys()].join(", ")}`,
      {
        fix: "convert it to PEFT folders first (tunesmith convert), and load the one of this model",
      },
    );
  }
  const file = { name: path, metadata: new Map<string, string>(), entries: only.tensors };
  const config = parsePeftConfig(only.config, path);
  const read = await adapterOf(base, { config, configPath: path, file }, options);
  return {
    ...read,
    warnings: [...read.warnings, `read as ${format}; that format does not say which base it is for`],
  };
}

/** What some formats need to know of the base. */
const sizesFor = (base: Model): AdapterFileOptions =>
  base.task === "causal-lm"
    ? {
        heads: base.sizes.heads,
        kvHeads: base.sizes.kvHeads,
        layers: base.sizes.layers,
        modelType: base.architecture,
      }
    : { modelType: base.architecture };

export interface EffectOptions {
  /** Accept an adapter that changes no weight (untrained, or all zeros). Default false. */
  readonly allowNoEffect?: boolean;
}

export interface SaveAdapterOptions extends EffectOptions {
  /** Which adapter; default: the last active one. */
  readonly name?: string;
}

/**
 * Saves one adapter of a model as a PEFT folder and returns what it holds. Nothing is written when it throws.
 *
 * Throws `adapter-no-effect` for an adapter that changes nothing (it was never trained), `adapter-invalid` for tensors
 * that are not finite, `file-write-failed`.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, formatReceipt, saveAdapter } from "tunesmith/methods";
 * export const save = async (trained: AdaptedLm) => formatReceipt(await saveAdapter(trained, "path/to/adapter"));
 * ```
 */
export async function saveAdapter(
  model: Adapted,
  folder: string,
  options: SaveAdapterOptions = {},
): Promise<Receipt> {
  const adapter = adapterNamed(model, options.name ?? model.active.at(-1) ?? "default");
  const receipt = await receiptOf(model, { adapter: adapter.name, action: "save" });
  if (!options.allowNoEffect) checkEffect(receipt);
  await savePeft(model.base, adapter, folder);
  return receipt;
}

function withAdapter<M extends Model>(model: M, adapter: Adapter): Adapted<M> {
  const known = isAdapted(model) ? model : undefined;
  const base = (known?.base ?? model) as M;
  const { adapters = new Map<string, Adapter>(), active = [] } = known ?? {};
  if (adapters.has(adapter.name)) {
    throw new TunesmithError("name-conflict", `the model already has an adapter '${adapter.name}'`, {
      fix: "give the new one another name, or unload the old one first",
    });
  }
  return adaptedModel(base, new Map([...adapters, [adapter.name, adapter]]), [...active, adapter.name]);
}

/** The adapter `name` of a model. Throws `adapter-invalid` listing those there are. */
export function adapterNamed(model: Adapted, name: string): Adapter {
  const adapter = model.adapters.get(name);
  if (adapter) return adapter;
  throw new TunesmithError("adapter-invalid", `no adapter '${name}' on this model`, {
    fix: `adapters: ${[...model.adapters.keys()].join(", ") || "none"}`,
  });
}

/**
 * The model with exactly these adapters switched on, in this order; none gives the base's behaviour bit for bit. Tensors
 * are shared with `model`. Throws `adapter-invalid` for an unknown name.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, setActive, setScale } from "tunesmith/methods";
 * export function blend(model: AdaptedLm): AdaptedLm {
 *   setScale(model, "style", 0.5);
 *   return setActive(model, ["facts", "style"]);
 * }
 * ```
 */
export const setActive = <M extends Model>(model: Adapted<M>, names: readonly string[]): Adapted<M> =>
  adaptedModel(model.base, model.adapters, names);

/**
 * Sets an adapter's strength (1 is as trained): W + scale·(W' − W) at its sites. Modules trained whole
 * beside the method, and token rows, are not scaled. Takes effect at the next run of any graph over the model. Throws `adapter-invalid` for an unknown name.
 */
export function setScale(model: Adapted, name: string, scale: number): void {
  (adapterNamed(model, name).gate.tensor.data as Float32Array)[0] = scale;
}

/** The model without an adapter; its memory is freed when nothing else holds it. */
export function unload<M extends Model>(model: Adapted<M>, name: string): Adapted<M> {
  adapterNamed(model, name);
  const rest = new Map([...model.adapters].filter(([other]) => other !== name));
  return adaptedModel(
    model.base,
    rest,
    model.active.filter((other) => other !== name),
  );
}
