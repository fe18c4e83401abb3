import { basename, fileExists, joinPath, makeDir, stat, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { readJson } from "../../models/index.js";
import {
  loadAll,
  openGguf,
  openSafetensors,
  openSharded,
  openTorch,
  writeGguf,
  writeSafetensors,
} from "../../tensor/index.js";
import { fromDiffusers, toDiffusers } from "./diffusers.js";
import { fromGgufLora, toGgufLora } from "./gguf.js";
import { fromKohya, toKohya } from "./kohya.js";
import { fromLoralib } from "./loralib.js";
import { fromMlx, toMlx } from "./mlx.js";
import type { NamedTensors, PeftLoraConfig, PeftTensors } from "./parts.js";

/** Formats of LoRA adapters, by what wrote them. */
export const ADAPTER_FORMATS = ["peft", "mlx", "gguf", "kohya", "diffusers", "loralib"] as const;
export type AdapterFormat = (typeof ADAPTER_FORMATS)[number];

/** What some formats do not say themselves. */
export interface AdapterFileOptions {
  /** Default: recognised by the file. */
  readonly format?: AdapterFormat | undefined;
  /** Alpha of a loralib checkpoint, which its file does not hold. */
  readonly alpha?: number | undefined;
  /** Parts of a fused projection that a loralib checkpoint adapts: `[true, false, true]` for queries and values. */
  readonly enableLora?: readonly boolean[] | undefined;
  /** `general.architecture` of a GGUF file that is written. */
  readonly architecture?: string | undefined;
  /** Attention heads of the base, for GGUF files of Llama models. */
  readonly heads?: number | undefined;
  readonly kvHeads?: number | undefined;
  /** Layers of the base, for MLX. */
  readonly layers?: number | undefined;
  /** Which part of a pipeline a plain model's adapter is for, in kohya's and diffusers' files: `unet`, `text_encoder`. */
  readonly component?: string | undefined;
  /** `model_type` of the base, for MLX. */
  readonly modelType?: string | undefined;
}

/** An adapter as it was found in a file. */
export interface AdapterFile {
  readonly format: AdapterFormat;
  /** By component of a pipeline (`unet`, `text_encoder`); one, named ``, of a plain model. */
  readonly components: ReadonlyMap<string, PeftTensors>;
}

const given = <T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;

/**
 * Reads a LoRA adapter of any format into PEFT's names: a PEFT or MLX folder, a GGUF file, safetensors of kohya's scripts or
 * diffusers, a loralib checkpoint.
 *
 * Throws `format-unsupported` for a file of none of them, `config-invalid` for what only the caller knows (alpha of
 * loralib), and what reading and converting throw.
 *
 * @example
 * ```ts
 * import { readAdapterFile } from "tunesmith/methods";
 * const { format, components } = await readAdapterFile("adapter.gguf", { heads: 32, kvHeads: 8 });
 * console.log(format, components.get("")?.tensors.size);
 * ```
 */
export async function readAdapterFile(path: string, options: AdapterFileOptions = {}): Promise<AdapterFile> {
  if ((await stat(path)).isDirectory) return readFolder(path, options);
  if (path.endsWith(".gguf")) {
    const file = await openGguf(path);
    try {
      const adapter = fromGgufLora(
        { tensors: await loadAll(file), metadata: file.metadata },
        given({ heads: options.heads, kvHeads: options.kvHeads }),
      );
      return { format: "gguf", components: new Map([["", adapter]]) };
    } finally {
      await file.close();
    }
  }
  if (path.endsWith(".safetensors")) return readFlat(path, options);
  if (/\.(bin|pt|pth|ckpt)$/.test(path)) return readLoralib(path, options);
  throw new TunesmithError("format-unsupported", `${path} is not an adapter of a known format`, {
    fix: `give a folder of PEFT or MLX, or a file that ends in .gguf, .safetensors or .bin (formats: ${ADAPTER_FORMATS.join(", ")})`,
  });
}

const single = (format: AdapterFormat, adapter: PeftTensors): AdapterFile => ({
  format,
  components: new Map([["", adapter]]),
});

async function readFolder(folder: string, options: AdapterFileOptions): Promise<AdapterFile> {
  const config = await readJson(joinPath(folder, "adapter_config.json"));
  if ("peft_type" in config) {
    const pickle = joinPath(folder, "adapter_model.bin");
    const tensors = (await fileExists(pickle))
      ? await torchTensors(pickle)
      : await closing(await openSharded(folder, "adapter_model"));
    return single("peft", { tensors, config: config as unknown as PeftLoraConfig });
  }
  const tensors = await closing(await openSafetensors(joinPath(folder, "adapters.safetensors")));
  return single("mlx", fromMlx({ tensors, config }, given({ modelType: options.modelType })));
}

async function closing(file: Awaited<ReturnType<typeof openSafetensors>>): Promise<NamedTensors> {
  try {
    return await loadAll({ tensors: file.entries });
  } finally {
    await file.close();
  }
}

async function torchTensors(path: string): Promise<NamedTensors> {
  const file = await openTorch(path);
  try {
    return await loadAll(file);
  } finally {
    await file.close();
  }
}

/** One safetensors file: kohya's names have underscores and `alpha`, diffusers' are paths below a component. */
async function readFlat(path: string, { format }: AdapterFileOptions): Promise<AdapterFile> {
  const file = await openSafetensors(path);
  try {
    const tensors = await loadAll({ tensors: file.entries });
    const isKohya = [...tensors.keys()].some((name) => /^lora_(unet|te\d?|transformer)_/.test(name));
    if ((format ?? (isKohya ? "kohya" : "diffusers")) === "kohya")
      return { format: "kohya", components: fromKohya(tensors) };
    return { format: "diffusers", components: fromDiffusers(tensors, file.metadata) };
  } finally {
    await file.close();
  }
}

async function readLoralib(path: string, options: AdapterFileOptions): Promise<AdapterFile> {
  const { alpha, enableLora } = options;
  if (alpha === undefined) {
    throw new TunesmithError("config-invalid", `${path}: a loralib checkpoint does not say its alpha`, {
      fix: "give alpha (--alpha): 16 for the published RoBERTa adapters, 32 for GPT-2",
    });
  }
  const tensors = await torchTensors(path);
  return single("loralib", fromLoralib(tensors, { alpha, ...given({ enableLora }) }));
}

/**
 * Writes an adapter in a format. Folders for PEFT and MLX, single files for the others. Throws `format-unsupported` for what
 * the format cannot hold, `config-invalid` for what it needs to be told, `file-write-failed`.
 *
 * @returns The files written.
 */
export async function writeAdapterFile(
  adapter: AdapterFile,
  path: string,
  format: AdapterFormat,
  options: AdapterFileOptions = {},
): Promise<string[]> {
  const pipeline = format === "kohya" || format === "diffusers";
  const components = pipeline ? named(adapter.components, options.component) : adapter.components;
  switch (format) {
    case "peft":
      return writeEach(components, path, writePeftFolder);
    case "mlx":
      return writeEach(components, path, (each, folder) =>
        writeMlxFolder(each, folder, given({ layers: options.layers, modelType: options.modelType })),
      );
    case "kohya":
      await writeSafetensors(path, toKohya(components));
      return [path];
    case "diffusers": {
      const { tensors, metadata } = toDiffusers(components);
      await writeSafetensors(path, tensors, { metadata });
      return [path];
    }
    case "gguf":
      return writeGgufFile(onlyComponent(adapter, format), path, options);
    default:
      throw new TunesmithError("format-unsupported", `adapters are not written as ${format} checkpoints`, {
        fix: "write PEFT: loralib checkpoints hold less, and nothing else reads them",
      });
  }
}

/** Components as a pipeline's file names them. */
function named(
  components: ReadonlyMap<string, PeftTensors>,
  component: string | undefined,
): ReadonlyMap<string, PeftTensors> {
  const plain = components.get("");
  if (!plain) return components;
  if (component !== undefined) return new Map([[component, plain]]);
  throw new TunesmithError(
    "config-invalid",
    "the file is for a pipeline of several models: which one is adapted?",
    {
      fix: "give component (--component), such as unet or text_encoder",
    },
  );
}

function onlyComponent({ components }: AdapterFile, format: string): PeftTensors {
  const [only] = components.values();
  if (only && components.size === 1) return only;
  throw new TunesmithError(
    "format-unsupported",
    `${format} holds one model's adapter; this one is of ${[...components.keys()].join(", ")}`,
    { fix: "write kohya or diffusers, or convert one component at a time" },
  );
}

/** A folder for each component of a pipeline, the folder itself for a plain model. */
async function writeEach(
  components: ReadonlyMap<string, PeftTensors>,
  path: string,
  write: (adapter: PeftTensors, folder: string) => Promise<string[]>,
): Promise<string[]> {
  const files: string[] = [];
  for (const [name, adapter] of components)
    files.push(...(await write(adapter, components.size === 1 ? path : joinPath(path, name))));
  return files;
}

async function writeConfigured(
  folder: string,
  file: string,
  tensors: NamedTensors,
  config: unknown,
): Promise<string[]> {
  await makeDir(folder);
  const [weights, settings] = [joinPath(folder, file), joinPath(folder, "adapter_config.json")];
  await writeSafetensors(weights, tensors, { metadata: { format: "pt" } });
  await writeFileAtomic(settings, `${JSON.stringify(config, null, 2)}\n`);
  return [weights, settings];
}

const writePeftFolder = ({ tensors, config }: PeftTensors, folder: string): Promise<string[]> =>
  writeConfigured(folder, "adapter_model.safetensors", tensors, config);

async function writeMlxFolder(
  adapter: PeftTensors,
  folder: string,
  options: Parameters<typeof toMlx>[1],
): Promise<string[]> {
  const { tensors, config } = toMlx(adapter, options);
  return writeConfigured(folder, "adapters.safetensors", tensors, config);
}

async function writeGgufFile(
  adapter: PeftTensors,
  path: string,
  { architecture, heads, kvHeads }: AdapterFileOptions,
): Promise<string[]> {
  if (architecture === undefined) {
    throw new TunesmithError("config-invalid", "a GGUF adapter names the architecture of its base", {
      fix: "give architecture, such as llama or gpt2 (--architecture), or the base with --model",
    });
  }
  const name = basename(path).replace(/\.gguf$/, "");
  const { tensors, metadata } = toGgufLora(adapter, { architecture, name, ...given({ heads, kvHeads }) });
  await writeGguf(path, tensors, metadata);
  return [path];
}
