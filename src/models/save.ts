import {
  copyFile,
  dirname,
  fileExists,
  joinPath,
  listDir,
  makeDir,
  readText,
  remove,
  resolvePath,
  stat,
  writeFileAtomic,
} from "#io";
import { TunesmithError } from "../errors/index.js";
import { type Graph, makeGraph, reach, type Value } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import {
  castTensor,
  isTensorRef,
  readTensor,
  type Tensor,
  type WritableTensor,
  writeSharded,
} from "../tensor/index.js";
import { type AnyTensorArchitecture, architectures, tensorArchitectures } from "./architectures/index.js";
import { poolingSchema } from "./architectures/parts/pooling.js";
import { configText } from "./config-text.js";
import { probeOutputs } from "./probe.js";
import { mainResult } from "./rewrite.js";
import { writePooling } from "./sentence-transformers.js";
import { isTokenizerFile } from "./tokenizer-files.js";
import type { CausalLm, Model, TensorModel } from "./types.js";

export interface SaveModelOptions {
  /** Bytes after which a new shard begins. Default 5e9. */
  readonly maxShardBytes?: number;
  /** Type of the stored weights. Default `float32`, which loses nothing. */
  readonly dtype?: "float32" | "bfloat16" | "float16";
  /** Folder to copy tokenizer files from. Default: where the model was loaded from. */
  readonly tokenizerFrom?: string;
}

export interface SavedModel {
  readonly folder: string;
  /** Names of the files written. */
  readonly files: readonly string[];
}

const CLASSES: Readonly<Record<string, string>> = {
  gpt2: "GPT2LMHeadModel",
  llama: "LlamaForCausalLM",
  mistral: "MistralForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  gemma: "GemmaForCausalLM",
  gemma2: "Gemma2ForCausalLM",
  gemma3_text: "Gemma3ForCausalLM",
};

/**
 * Writes a model as a Hugging Face folder: `config.json`, `model.safetensors` (shards with an index beyond
 * `maxShardBytes`), and the tokenizer files of where it came from; for a model of text vectors also what sentence-transformers
 * reads. A tied head is not stored twice. `config.json` is
 * written last and an older one is removed first, so that a folder is never taken for a model while it is half written.
 *
 * Throws `adapter-invalid` for a model with adapters or unfrozen weights, `format-unsupported` for a model from an ONNX
 * file, `graph-invalid` when the graph uses matrices that are not among the weights, `file-write-failed` also for
 * the folder that the model itself is read from.
 *
 * @example
 * ```ts
 * import { loadModel, saveModel } from "tunesmith/models";
 * const model = await loadModel("stories260K");
 * const { files } = await saveModel(model, "stories260K-hf");
 * console.log(files);
 * ```
 */
export async function saveModel(
  model: Model,
  folder: string,
  options: SaveModelOptions = {},
): Promise<SavedModel> {
  checkSavable(model, folder);
  await makeDir(folder);
  await remove(joinPath(folder, "config.json"));
  const { maxShardBytes, dtype = "float32" } = options;
  const entries = [...model.weights, ...copiesOf(model)].map(
    ([name, value]) => [name, writable(value, dtype)] as const,
  );
  const metadata = { format: "pt" };
  const weights = await writeSharded(folder, entries, {
    metadata,
    ...(maxShardBytes ? { maxShardBytes } : {}),
  });
  const tokenizer = await copyTokenizer(model, folder, options.tokenizerFrom);
  const pooling = await savePooling(model, folder);
  const config = configText(configOf(model, dtype), await originalConfig(model));
  await writeFileAtomic(joinPath(folder, "config.json"), config);
  return { folder, files: [...weights, ...tokenizer, ...pooling, "config.json"] };
}

/** The text of the config it was loaded with, where that still is. */
async function originalConfig({ origin }: Model): Promise<string | undefined> {
  if (origin === undefined || !(await fileExists(origin))) return undefined;
  const path = joinPath(await folderOf(origin), "config.json");
  return (await fileExists(path)) ? readText(path) : undefined;
}

/** Beside a model of text vectors, how they are made. */
async function savePooling(model: Model, folder: string): Promise<string[]> {
  if (model.task !== "embedding" || !probeOutputs(model).values.sentence_embedding) return [];
  const width = probeOutputs(model).values.sentence_embedding?.shape[1];
  return writePooling(folder, poolingSchema.parse(model.config.sentence_pooling ?? {}), Number(width));
}

function checkSavable(model: Model, folder: string): void {
  if (model.parameters.size > 0) {
    throw new TunesmithError(
      "adapter-invalid",
      "the model has adapters or unfrozen weights, which a plain folder cannot hold",
      {
        fix: "save merge(model) or freeze(model), or save the adapter alone",
        details: { parameters: [...model.parameters.keys()].slice(0, 10) },
      },
    );
  }
  if (classOf(model) === undefined) {
    throw new TunesmithError(
      "format-unsupported",
      `a model of architecture '${model.architecture}' has no config.json to be saved with`,
      {
        fix: "write ONNX instead: exportOnnx, or tunesmith export",
      },
    );
  }
  const own = [...model.weights].find(([, value]) => dirname(pathOf(value) ?? "") === resolvePath(folder));
  if (own) {
    throw new TunesmithError(
      "file-write-failed",
      `${folder}: the model is read from this folder while it is written`,
      {
        fix: "save to another folder",
        details: { folder, weight: own[0] },
      },
    );
  }
  const known = new Set(model.weights.values());
  const foreign = reach([mainResult(probeOutputs(model))]).values.filter(
    (value) => value.source.kind === "constant" && value.shape.length >= 2 && !known.has(value),
  );
  if (foreign.length === 0) return;
  const names = foreign.slice(0, 3).map((value) => value.name ?? `[${value.shape.join(", ")}]`);
  throw new TunesmithError(
    "graph-invalid",
    `the model's graph uses ${foreign.length} matrices that are not among its weights: ${names.join(", ")}`,
    { fix: "put them into `weights` under their names, or save the model as ONNX" },
  );
}

const definitionOf = (model: CausalLm) =>
  architectures.find(({ modelTypes }) => modelTypes.includes(model.architecture));

const tensorDefinitionOf = (model: TensorModel): AnyTensorArchitecture | undefined =>
  tensorArchitectures.find(({ modelTypes }) => modelTypes.includes(model.architecture));

/** The class in transformers that loads the folder; undefined for models that are no folders. */
export function classOf(model: Model): string | undefined {
  if (model.task === "causal-lm") return definitionOf(model) && CLASSES[model.architecture];
  return tensorDefinitionOf(model)?.className?.(model.config, model.task);
}

function pathOf({ source }: Value): string | undefined {
  return source.kind === "constant" && isTensorRef(source.data) ? source.data.source.path : undefined;
}

/** A weight as it is, or computed, or converted, when its turn comes to be written. */
function writable(value: Value, dtype: "float32" | "bfloat16" | "float16"): WritableTensor {
  const convert = value.dtype === "float32" && dtype !== "float32";
  if (value.source.kind === "constant" && !convert) return value.source.data;
  const shape = value.shape as readonly number[];
  return {
    dtype: convert ? dtype : value.dtype,
    shape,
    async load() {
      const loaded = await computed(value);
      return convert ? castTensor(loaded, dtype) : loaded;
    },
  };
}

async function computed(value: Value): Promise<Tensor> {
  if (value.source.kind === "constant") return readTensor(value.source.data);
  const graph: Graph = makeGraph("weight", [], [["weight", value]]);
  return (await evaluate(graph, {})).weight as Tensor;
}

/** The config of the weights as they are now: their class and type, and whether the head is still the embedding. */
function configOf(model: Model, dtype: string): Record<string, unknown> {
  const { torch_dtype: _, dtype: __, architectures: ___, ...rest } = model.config;
  const isOld = "torch_dtype" in model.config || !("dtype" in model.config);
  return {
    architectures: [classOf(model)],
    ...rest,
    ...(isOld ? { torch_dtype: dtype } : { dtype }),
    ...tyingOf(model),
  };
}

/** What an untied head's class reads under a second name. */
function copiesOf(model: Model): [string, Value][] {
  const untied = model.task === "causal-lm" ? undefined : tensorDefinitionOf(model)?.untied;
  if (!untied?.copies || !model.weights.has(untied.head)) return [];
  return Object.entries(untied.copies).flatMap(([copy, name]): [string, Value][] => {
    const value = model.weights.get(name);
    return value && !model.weights.has(copy) ? [[copy, value]] : [];
  });
}

function tyingOf(model: Model): Readonly<Record<string, unknown>> {
  if (model.task === "causal-lm") {
    const output = definitionOf(model)?.tieable.output;
    return { tie_word_embeddings: output === undefined || !model.weights.has(output) };
  }
  const untied = tensorDefinitionOf(model)?.untied;
  return untied && model.weights.has(untied.head) ? untied.config(model.config) : {};
}

/** Puts the tokenizer files of where a model came from beside a saved one. */
export async function copyTokenizer(
  model: Pick<Model, "origin" | "tokenizer">,
  folder: string,
  from: string | undefined,
): Promise<string[]> {
  const origin = from ?? model.origin;
  const home = origin === undefined || !(await fileExists(origin)) ? undefined : await folderOf(origin);
  const names = home === undefined ? [] : (await listDir(home)).filter(isTokenizerFile);
  if (home !== undefined && resolvePath(home) !== resolvePath(folder)) {
    for (const name of names) await copyFile(joinPath(home, name), joinPath(folder, name));
  }
  if (names.length > 0 || !model.tokenizer || (await listDir(folder)).some(isTokenizerFile)) return names;
  throw new TunesmithError(
    "file-not-found",
    `${folder}: there are no tokenizer files to save beside the model`,
    {
      fix: "name their folder in `tokenizerFrom`, or write tokenizer.json into the folder first",
    },
  );
}

const folderOf = async (path: string) => ((await stat(path)).isDirectory ? path : dirname(path));
