import { basename, dirname, fileExists, joinPath, listDir, openFile, stat } from "#io";
import { TunesmithError } from "../errors/index.js";
import type { QuantizationKind } from "../graph/index.js";
import type { Wanted } from "./architectures/definition.js";
import { architectures, type ModelConfig, tensorArchitectures } from "./architectures/index.js";
import { causalLm } from "./causal-lm.js";
import { loadStateDict, loadWeights, readJson } from "./checkpoint.js";
import { withClasses } from "./fresh-head.js";
import { downloadModel, type HubOptions } from "./hub.js";
import { findLlama2c, loadLlama2c } from "./llama2c.js";
import { isMinGpt, minGpt } from "./min-gpt.js";
import { loadOnnxModel } from "./onnx/tensor-model.js";
import { loadOnnxLm } from "./onnx-lm.js";
import { type QuantizeModelOptions, quantizeModel } from "./quantize.js";
import { readPooling } from "./sentence-transformers.js";
import { modelTypeOf, tensorModel } from "./tensor-model.js";
import { tokenizerIn } from "./tokenizer-files.js";
import type { CausalLm, Model, Task, TensorModel, Weights } from "./types.js";

/** What the model is wanted for, and where models from the hub come from and go to. */
export interface LoadOptions extends HubOptions, Omit<Wanted, "task"> {
  /** Default `causal-lm`; `auto` takes what the file is. A task the file has no head for gets a fresh one. */
  readonly task?: Task | "auto" | undefined;
  /** What config.json would say, for a file of tensors without one; entries given beside one win over it. */
  readonly config?: ModelConfig | undefined;
  /** Keep the weights of linear maps in 8 or 4 bits, as `quantizeModel` does. Default: as they are. */
  readonly quantize?: QuantizationKind | QuantizeModelOptions | undefined;
}

/** The type of model that a task gives. */
export type ModelFor<T extends Task | "auto"> = T extends "auto"
  ? Model
  : T extends "causal-lm"
    ? CausalLm
    : TensorModel;

/** `organisation/name`, optionally `@revision`. */
const HUB_ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?$/;

/**
 * Loads a model from wherever it is: a causal language model, or with `task` one of another kind:
 * - a Hugging Face style folder (`config.json`, `model.safetensors` or shards, tokenizer files);
 * - a llama2.c checkpoint, as a `.bin` file or a folder with it and its tokenizer;
 * - an `.onnx` file, or a folder with one (also as `onnx/model.onnx`);
 * - a state dict (`.pth`, `.pt`, `.th`, `.bin`, `.safetensors`, or tensors in `.json`): of a network that is known by its
 *   names and shapes (torchvision's and the CIFAR ResNets, MobileNetV2, minGPT), or described by `config`;
 * - a hub id, `organisation/name` or `organisation/name@revision`: downloaded once into the cache, checked by SHA-256.
 *
 * A path that exists wins over a hub id. Throws `task-mismatch` when the file is for another task, `file-not-found` saying what was tried, `format-unsupported`,
 * `offline` and `checksum-mismatch` for the hub, and what reading and building the model throws.
 *
 * @example
 * ```ts
 * import { generate, loadModel } from "tunesmith/models";
 * const model = await loadModel("path/to/model");
 * const { text } = await generate(model, "Once upon a time", { maxTokens: 40 });
 * const classifier = await loadModel("path/to/bert", { task: "sequence-classification", labels: ["bad", "good"] });
 * const images = await loadModel("resnet20.th", { task: "image-classification" });
 * console.log(text, classifier.labels, images.architecture);
 * ```
 */
export async function loadModel<T extends Task | "auto" = "causal-lm">(
  pathOrId: string,
  options: LoadOptions & { readonly task?: T } = {},
): Promise<ModelFor<T>> {
  const model = await loadAny(pathOrId, options);
  const { task = "causal-lm", quantize } = options;
  if (task === "auto" || model.task === task)
    return (quantize ? await quantizeModel(model, quantize) : model) as ModelFor<T>;
  throw new TunesmithError("task-mismatch", `${pathOrId} is a model for ${model.task}, not ${task}`, {
    fix: `load it with { task: "${model.task}" }, or { task: "auto" }`,
    details: { path: pathOrId, task: model.task },
  });
}

async function loadAny(pathOrId: string, options: LoadOptions): Promise<Model> {
  if (await fileExists(pathOrId)) return loadPath(pathOrId, options);
  const [, id, revision] = HUB_ID.exec(pathOrId) ?? [];
  const isFileName = /\.(onnx|bin|safetensors|json|gguf|pt|pth|th)$/.test(pathOrId);
  if (id && !isFileName) {
    return loadPath(await downloadModel(id, { ...options, ...(revision ? { revision } : {}) }), options);
  }
  throw new TunesmithError("file-not-found", `${pathOrId}: no such file or folder`, {
    fix: "give a model folder, a llama2.c .bin, an .onnx file, or a hub id written organisation/name",
    details: { path: pathOrId },
  });
}

async function loadPath(path: string, options: LoadOptions): Promise<Model> {
  if ((await stat(path)).isDirectory) return loadDirectory(path, options);
  if (path.endsWith(".onnx")) return loadOnnxFile(path, options);
  const folder = dirname(path);
  const inFolder = /\.(safetensors|json)$/.test(path) && (await isModelFolder(folder));
  if (inFolder) return loadAnyFolder(folder, options);
  if (path.endsWith(".bin") && !(await isTorch(path))) return loadLlama2c(path);
  if (/\.(safetensors|json|bin|pt|pth|th)$/.test(path)) return loadTensorFile(path, options);
  throw new TunesmithError("format-unsupported", `${path} is not a model file that can be loaded`, {
    fix: "give an .onnx file, a llama2.c .bin, a state dict, or a folder with config.json and model.safetensors",
    details: { path },
  });
}

/** An ONNX file as what is asked for; as what it is when anything will do. */
async function loadOnnxFile(
  path: string,
  { task = "causal-lm", labels, seed = 0 }: LoadOptions,
): Promise<Model> {
  if (task === "causal-lm") return loadOnnxLm(path);
  const model = await loadOnnxModel(path, task === "auto" ? undefined : task);
  if ((model as Model).task === "causal-lm") return loadOnnxLm(path);
  return labels === undefined ? model : withClasses(model, { labels, seed });
}

async function loadDirectory(path: string, options: LoadOptions): Promise<Model> {
  const names = await listDir(path);
  const onnx = names.filter((name) => name.endsWith(".onnx"));
  // An exported model has its config.json beside the ONNX file, or above the folder that transformers.js looks into.
  if (names.includes("onnx") && (await fileExists(joinPath(path, "onnx", "model.onnx"))))
    onnx.push("onnx/model.onnx");
  const hasWeights = names.some((name) => name.includes(".safetensors"));
  if ((hasWeights || onnx.length === 0) && (await isModelFolder(path))) return loadAnyFolder(path, options);
  if (onnx.length === 1) return loadOnnxFile(joinPath(path, String(onnx[0])), options);
  const checkpoint = await findLlama2c(path);
  if (checkpoint) return loadLlama2c(checkpoint);
  throw new TunesmithError(
    "file-not-found",
    `${path}: no model in this folder (it holds ${names.slice(0, 12).join(", ") || "nothing"})`,
    {
      fix: "looked for config.json with safetensors, one .onnx file, one llama2.c checkpoint (*.bin): name the file itself if there are several",
      details: { path, found: names },
    },
  );
}

/**
 * Loads a causal language model from a Hugging Face style folder (`config.json`, `model.safetensors` or shards,
 * tokenizer files). float32 weights stay in their file; half-precision ones are converted once to a temporary file.
 *
 * Throws `file-not-found`, `file-corrupt`, `config-invalid`, `architecture-unsupported`, `tensor-not-found`.
 */
export async function loadFolder(path: string): Promise<CausalLm> {
  const config = await readJson(joinPath(path, "config.json"));
  const weights = await loadWeights(path);
  return causalLm(config, weights, { origin: path, tokenizer: await tokenizerIn(path) });
}

/** A folder's model, of whatever kind its `config.json` says. */
async function loadAnyFolder(path: string, options: LoadOptions): Promise<Model> {
  const config: Record<string, unknown> = {
    ...(await readJson(joinPath(path, "config.json"))),
    ...options.config,
  };
  const isDiffusers = "_class_name" in config && !("model_type" in config);
  const weights = await loadWeights(path, isDiffusers ? "diffusion_pytorch_model" : undefined);
  const { task = "auto" } = options;
  const pooling = task === "auto" || task === "embedding" ? await readPooling(path) : undefined;
  if (pooling && !("sentence_pooling" in config)) config.sentence_pooling = pooling;
  return modelOf(config, weights, path, options, await tokenizerIn(path));
}

function modelOf(
  config: Readonly<Record<string, unknown>>,
  weights: Weights,
  origin: string,
  { task, labels, seed, part }: LoadOptions,
  tokenizer?: Model["tokenizer"],
): Model {
  const isTensor = tensorArchitectures.some(({ modelTypes }) => modelTypes.includes(modelTypeOf(config)));
  if (!isTensor) return causalLm(config, weights, { origin, tokenizer });
  const wanted = task === "auto" ? undefined : task;
  return tensorModel(config, weights, { origin, tokenizer, task: wanted, labels, seed, part });
}

/** The first bytes of what `torch.save` writes: a zip archive, or a pickle. */
async function isTorch(path: string): Promise<boolean> {
  const source = await openFile(path);
  try {
    const [first, second] = await source.read(0, Math.min(2, source.size));
    return (first === 0x50 && second === 0x4b) || first === 0x80;
  } finally {
    await source.close();
  }
}

/** A file of named tensors: the config is given, or the names and shapes are those of a known network. */
async function loadTensorFile(path: string, options: LoadOptions): Promise<Model> {
  const { weights, config: own = {} } = await loadStateDict(path);
  const given = { ...own, ...options.config };
  if (isMinGpt(weights)) return minGpt(weights, given, { origin: path });
  if (options.config && ("model_type" in given || "_class_name" in given))
    return modelOf(given, weights, path, options);
  const known = tensorArchitectures.flatMap((definition) => definition.recognise?.(weights) ?? []);
  const [config] = known;
  if (config && known.length === 1) return modelOf({ ...config, ...options.config }, weights, path, options);
  const types = [...architectures, ...tensorArchitectures].flatMap(({ modelTypes }) => modelTypes);
  throw new TunesmithError(
    "architecture-unsupported",
    `${path}: ${weights.size} tensors (${[...weights.keys()].slice(0, 3).join(", ")}, ...) that belong to no network known by its names`,
    {
      fix: `describe it: { config: { model_type: "conv_net", image: [...], layers: [...] } }, or another of ${types.join(", ")}`,
      details: { path, tensors: [...weights.keys()] },
    },
  );
}

/** Whether `path` is a folder with a `config.json`. */
export async function isModelFolder(path: string): Promise<boolean> {
  return (
    (await fileExists(path)) && (await stat(path)).isDirectory && fileExists(joinPath(path, "config.json"))
  );
}

/** Short name of a model for receipts and file names. */
export const modelName = (model: Model): string =>
  model.origin ? basename(model.origin) : model.architecture;
