import { dirname, fileExists, joinPath, listDir, stat } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { describeQuantization } from "../../graph/index.js";
import { type Model, nearest, probeOutputs, readJson } from "../../models/index.js";
import {
  openSharded,
  readTensor,
  type Tensor,
  type TensorFile,
  type TensorRef,
  tensorsEqual,
  toFloat32,
} from "../../tensor/index.js";
import { type Adapter, createAdapter, type StoredTensor } from "../adapter.js";
import { checkFingerprint, type Fingerprint } from "../fingerprint.js";
import type { Adaptation, Method, SiteConfig, TensorNumbers, TensorSpec } from "../method.js";
import { OWN_BASE_KEY } from "../quantised/own-base.js";
import { modulesIn } from "../saved.js";
import { adaptationOf, parsePeftConfig } from "./config.js";
import type { PeftConfig } from "./config-part.js";
import type { FolderParts, PeftMapping } from "./mapping.js";
import { mappingFor } from "./mappings.js";
import { PREFIX, peftNames, tensorName } from "./names.js";
import { inOwnNames } from "./spelling.js";

const CONFIG_FILE = "adapter_config.json";

export interface LoadAdapterOptions {
  readonly name?: string;
  /** Apply it although the base differs from the one it was trained on. Default false. */
  readonly anyBase?: boolean;
  /** Methods of one's own, for adapters that they wrote. */
  readonly methods?: readonly Method<SiteConfig>[];
  /**
   * Folders of an X-LoRA's experts, or of an Arrow's and then its general adapters', in their order. Default: those below its own
   * folder or beside it, or else those that it names.
   */
  readonly experts?: readonly string[];
}

/** Key under which the fingerprint of the base travels in the safetensors metadata. */
export const FINGERPRINT_KEY = "tunesmith.base_fingerprint";
/** Key of the hash of the tokenizer it was trained with. */
export const TOKENIZER_KEY = "tunesmith.tokenizer_hash";

/** Key of the settings that the base was quantised with when it was trained. */
export const QUANTIZATION_KEY = "tunesmith.base_quantization";

/** An adapter read from a folder, and what the user should know about it. */
export interface ReadAdapter {
  readonly adapter: Adapter;
  readonly warnings: readonly string[];
}

/**
 * Reads a PEFT adapter folder for a model, without putting it on: `loadAdapter` does both and checks the effect.
 * Stricter than the reference: every tensor the config promises must be there with its shape, every tensor in the file
 * must be used, and the base must be the one it was trained on when that is known. A folder with one adapter in a
 * sub-folder (PEFT puts named adapters there) stands for it.
 *
 * Throws `file-not-found`, `file-corrupt`, `format-unsupported` (a pickle), `adapter-invalid`, `wrong-base`,
 * `target-not-found`.
 */
export async function loadPeft(
  model: Model,
  folder: string,
  options: LoadAdapterOptions = {},
): Promise<Adapter> {
  return (await readPeft(model, folder, options)).adapter;
}

/** Tensors by name with what came along: an open file, or what another format was converted to. */
export interface AdapterTensors {
  /** For messages. */
  readonly name: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly entries: ReadonlyMap<string, Tensor | TensorRef>;
}

/** As `loadPeft`, with the warnings. */
export async function readPeft(
  model: Model,
  given: string,
  options: LoadAdapterOptions = {},
): Promise<ReadAdapter> {
  const folder = await adapterFolder(given, options.name);
  const configPath = joinPath(folder, CONFIG_FILE);
  const config = parsePeftConfig(await readJson(configPath), configPath);
  const file = await openAdapterFile(folder);
  try {
    return await adapterOf(model, { config, configPath, file, folder }, options);
  } finally {
    await file.close();
  }
}

/** An adapter for a model out of PEFT's config and tensors. */
export async function adapterOf(
  model: Model,
  given: {
    readonly config: PeftConfig;
    readonly configPath: string;
    readonly file: AdapterTensors;
    /** Where it was found, for what else lies there. */
    readonly folder?: string;
  },
  options: LoadAdapterOptions,
): Promise<ReadAdapter> {
  const { configPath } = given;
  const { method } = mappingFor(given.config, configPath, options.methods);
  const { config, file } = inOwnNames(model, given.config, given.file, method);
  const { adaptation: own, mapping } = adaptationOf(config, configPath, options.methods);
  const adaptation = (await mapping.completed?.(own, partsOf(model, given.folder, options))) ?? own;
  if (!options.anyBase) await checkBase(model, file);
  checkOwnBase(model, file);
  const pieces = new Set<string>();
  const stored: StoredTensor = async (site, key, spec, made) => {
    const piece = (suffix: string) => {
      const name = `${PREFIX}${site?.path}.${suffix}`;
      pieces.add(name);
      return floatsOf(file, name);
    };
    const joined =
      site && (await mapping.joined?.(key, site, { made, piece, file: file.name }, adaptation.config));
    if (joined) return joined;
    const name = tensorName(mapping, site, key);
    if (spec.stored === false && !file.entries.has(name ?? "")) return undefined;
    const shape = (site && mapping.fileShape?.(key, site, spec.shape)) ?? spec.shape;
    const data = await readNumbers(file, name, shape, spec.dtype);
    return data && site && mapping.fromFile ? mapping.fromFile(data, key, site, adaptation.config) : data;
  };
  const adapter = await createAdapter(model, withKnownModules(adaptation, model), {
    name: options.name ?? "default",
    seed: 0,
    stored,
  });
  await fillRest(adapter, file);
  await checkCopies(adapter, file, mapping);
  await checkLeftOver(adapter, file, model, mapping, pieces);
  return { adapter, warnings: [...tokenizerWarnings(model, file), ...quantizationWarnings(model, file)] };
}

/** The adapters below another's folder. */
const partsOf = (model: Model, folder: string | undefined, options: LoadAdapterOptions): FolderParts => ({
  model,
  async read(n, otherwise, name) {
    const { experts, ...rest } = options;
    const around = folder === undefined ? [] : [folder, ...(name === undefined ? [] : [dirname(folder)])];
    const places = around.map((place) => joinPath(place, name ?? String(n)));
    const held = await Promise.all(places.map((place) => fileExists(joinPath(place, CONFIG_FILE))));
    const found = places.find((_, at) => held[at]);
    return loadPeft(model, experts?.[n] ?? found ?? otherwise, { ...rest, name: String(n) });
  },
});

/** PEFT lists every usual name of a head (`classifier`, `score`), and takes the one there is. */
function withKnownModules<A extends Adaptation<SiteConfig>>(adaptation: A, model: Model): A {
  const { modulesToSave } = adaptation.config;
  if (!modulesToSave) return adaptation;
  const known = modulesIn(probeOutputs(model), modulesToSave);
  return { ...adaptation, config: { ...adaptation.config, modulesToSave: known } };
}

/** The folder itself, or the sub-folder of the adapter that is meant. */
async function adapterFolder(folder: string, name: string | undefined): Promise<string> {
  const holds = (path: string) => fileExists(joinPath(path, CONFIG_FILE));
  if (await holds(folder)) return folder;
  const isFolder = (await fileExists(folder)) && (await stat(folder)).isDirectory;
  const found: string[] = [];
  for (const entry of isFolder ? await listDir(folder) : [])
    if (await holds(joinPath(folder, entry))) found.push(entry);
  const chosen = found.find((entry) => entry === name) ?? (found.length === 1 ? found[0] : undefined);
  if (chosen !== undefined) return joinPath(folder, chosen);
  throw new TunesmithError("file-not-found", `${folder}: no ${CONFIG_FILE}`, {
    fix:
      found.length > 0
        ? `name one of the adapters in its sub-folders: ${found.map((entry) => joinPath(folder, entry)).join(", ")}`
        : "give the folder of a PEFT adapter",
  });
}

async function openAdapterFile(folder: string): Promise<TensorFile> {
  const pickle = joinPath(folder, "adapter_model.bin");
  const names = await listDir(folder);
  if (
    names.includes("adapter_model.bin") &&
    !names.some((name) => name.startsWith("adapter_model.safetensors"))
  ) {
    throw new TunesmithError(
      "format-unsupported",
      `${pickle} is a Python pickle, which can run code and is not read`,
      {
        fix: "load it once with PEFT and save it again: save_pretrained writes adapter_model.safetensors",
      },
    );
  }
  return openSharded(folder, "adapter_model");
}

/** Compares the base with what the file says of the one it was trained on. */
async function checkBase(model: Model, file: AdapterTensors): Promise<void> {
  const prints = file.metadata.get(FINGERPRINT_KEY);
  if (prints === undefined) return;
  const expected = parseFingerprint(prints);
  if (expected) return checkFingerprint(model, expected, file.name);
  throw new TunesmithError(
    "adapter-invalid",
    `${file.name}: '${FINGERPRINT_KEY}' in its metadata is damaged`,
    {
      fix: "pass { anyBase: true } to load it without the check",
    },
  );
}

/** An adapter over quantised numbers of its own means nothing without them, whatever the floats are. */
function checkOwnBase({ quantization }: Model, { metadata, name }: AdapterTensors): void {
  const own = metadata.get(OWN_BASE_KEY);
  if (own === undefined || own === quantization?.own) return;
  throw new TunesmithError(
    "wrong-base",
    `${name} belongs to quantised weights that this model does not have`,
    {
      fix: "load its folder with loadAdapter on the plain model: the weights lie beside it in quantized_base.safetensors",
    },
  );
}

function parseFingerprint(text: string): Fingerprint | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isTable = typeof value === "object" && value !== null && !Array.isArray(value);
    return isTable && Object.values(value).every((hash) => typeof hash === "string")
      ? (value as Fingerprint)
      : undefined;
  } catch {
    return undefined;
  }
}

/** An adapter learns the rounding errors of its base with everything else. */
function quantizationWarnings(model: Model, { metadata }: Pick<AdapterTensors, "metadata">): string[] {
  const [trained, own] = [metadata.get(QUANTIZATION_KEY), model.quantization?.settings];
  // A file that does not name its base says nothing of how that was kept, either.
  if (trained === undefined && (!own || !metadata.has(FINGERPRINT_KEY))) return [];
  if (trained === (own && JSON.stringify(own))) return [];
  const now = own ? `quantised (${describeQuantization(own)})` : "of floats";
  return [
    `it was trained on the base ${trained ? `quantised as ${trained}` : "of floats"}; this one is ${now}`,
  ];
}

function tokenizerWarnings(model: Model, file: AdapterTensors): string[] {
  const expected = file.metadata.get(TOKENIZER_KEY);
  if (expected === undefined || !model.tokenizer || model.tokenizer.hash === expected) return [];
  return ["the model's tokenizer is not the one the adapter was trained with"];
}

/** A tensor of the file; its shape is checked before anything is read. */
async function readSiteTensor(
  file: AdapterTensors,
  name: string | undefined,
  shape: readonly number[],
): Promise<Float32Array | undefined> {
  if (name === undefined) return undefined;
  return toFloat32(await readTensor(entryOf(file, name, shape))).slice();
}

/** A tensor of any shape, as floats. */
async function floatsOf(file: AdapterTensors, name: string): Promise<Tensor> {
  const entry = file.entries.get(name);
  if (!entry) throw missing(file, name);
  return { dtype: "float32", shape: entry.shape, data: toFloat32(await readTensor(entry)).slice() };
}

function entryOf(file: AdapterTensors, name: string, shape: readonly number[]): Tensor | TensorRef {
  const entry = file.entries.get(name);
  if (!entry) throw missing(file, name);
  if (entry.shape.join() !== shape.join()) {
    throw new TunesmithError(
      "adapter-invalid",
      `${file.name}: '${name}' has shape [${entry.shape}], this model needs [${shape}]`,
      { fix: "the adapter belongs to another base, or its config names another rank" },
    );
  }
  return entry;
}

/** As `readSiteTensor`, for masks and indices too. */
async function readNumbers(
  file: AdapterTensors,
  name: string | undefined,
  shape: readonly number[],
  dtype: TensorSpec["dtype"] = "float32",
): Promise<TensorNumbers | undefined> {
  if (dtype === "float32" || name === undefined) return readSiteTensor(file, name, shape);
  const entry = entryOf(file, name, shape);
  if (entry.dtype === dtype) return (await readTensor(entry)).data.slice() as TensorNumbers;
  // PEFT on Windows writes whole numbers as floats.
  if (entry.dtype === "float32" && dtype === "int32")
    return Int32Array.from((await readTensor(entry)).data as Float32Array);
  throw new TunesmithError("adapter-invalid", `${file.name}: '${name}' is ${entry.dtype}, not ${dtype}`, {
    fix: "the file was not written by the method its config names",
  });
}

/** Modules saved whole and token rows: they were made from the base, which gives their shapes. */
async function fillRest(adapter: Adapter, file: AdapterTensors): Promise<void> {
  const names = peftNames(adapter);
  for (const { parameter } of [...adapter.saved, ...adapter.tokens]) {
    const data = await readSiteTensor(file, names.get(parameter.name), parameter.tensor.shape);
    if (data) (parameter.tensor.data as Float32Array).set(data);
  }
}

/** What modules share is written at each of them, and must be the same everywhere. */
async function checkCopies(adapter: Adapter, file: AdapterTensors, mapping: PeftMapping): Promise<void> {
  const shared = new Set(Object.values(adapter.shared));
  for (const { shape, tensors } of adapter.sites.values()) {
    for (const [key, parameter] of Object.entries(tensors)) {
      const name = shared.has(parameter) ? tensorName(mapping, shape, key) : undefined;
      const copy = name && (await readSiteTensor(file, name, parameter.tensor.shape));
      const own = parameter.tensor.data as Float32Array;
      if (!copy || copy.every((value, at) => value === own[at])) continue;
      throw new TunesmithError(
        "adapter-invalid",
        `${file.name}: '${name}' is not the one that modules share`,
        {
          fix: "its modules were grouped by other target names: name the targets in its config as they were when it was trained",
          details: { tensor: name },
        },
      );
    }
  }
}

async function checkLeftOver(
  adapter: Adapter,
  file: AdapterTensors,
  model: Model,
  mapping: PeftMapping,
  pieces: ReadonlySet<string>,
): Promise<void> {
  const { ignores } = mapping;
  const used = new Set([...peftNames(adapter).values(), ...siteNames(adapter, mapping), ...pieces]);
  const paths = ignores ? [...adapter.sites.keys()].map((path) => `${PREFIX}${path}.`) : [];
  for (const name of file.entries.keys()) {
    const path = paths.find((each) => name.startsWith(each));
    const says = path === undefined || !ignores?.(name.slice(path.length));
    if (says && !used.has(name)) await checkExtra(name, file, model);
  }
}

/** Names of all tensors at sites, copies of shared ones included. */
const siteNames = ({ sites }: Adapter, mapping: PeftMapping): string[] =>
  [...sites.values()].flatMap(({ shape, tensors }) =>
    Object.keys(tensors).flatMap((key) => tensorName(mapping, shape, key) ?? []),
  );

/** A stored copy of a base weight must be the base's own; anything else that is left over is an error. */
async function checkExtra(name: string, file: AdapterTensors, model: Model): Promise<void> {
  const base = name.startsWith(PREFIX) ? name.slice(PREFIX.length).replace(".base_layer.", ".") : "";
  const own = model.weights.get(base)?.source ?? tiedHead(base, model);
  if (own?.kind === "constant" && name.includes(".base_layer.")) {
    if (
      tensorsEqual(await readTensor(own.data), await readTensor(file.entries.get(name) as Tensor | TensorRef))
    )
      return;
    throw new TunesmithError("wrong-base", `${file.name}: '${name}' differs from the base's '${base}'`, {
      fix: "load the base it was trained on",
    });
  }
  const reason = name.startsWith(PREFIX) ? "no module of the model takes it" : `its name lacks '${PREFIX}'`;
  throw new TunesmithError("adapter-invalid", `${file.name}: tensor '${name}' is not used: ${reason}`, {
    fix: "check that the adapter belongs to this architecture; nothing was applied",
    details: { tensor: name },
  });
}

/** A tied output head is stored under its own name. */
function tiedHead(name: string, model: Model) {
  if (name !== "lm_head.weight") return undefined;
  const embedding = [...model.weights.keys()].find((key) => /(embed_tokens|wte)\.weight$/.test(key));
  return embedding === undefined ? undefined : model.weights.get(embedding)?.source;
}

function missing(file: AdapterTensors, name: string): TunesmithError {
  const near = nearest(name, file.entries.keys(), 3).join(", ");
  return new TunesmithError("adapter-invalid", `${file.name}: tensor '${name}' is missing`, {
    fix: `the config asks for it; the nearest in the file: ${near}`,
    details: { tensor: name },
  });
}
