import { basename, dirname, fileExists, joinPath, stat, writeFileAtomic } from "#io";
import { readJson } from "../checkpoint.js";
import { configText } from "../config-text.js";
import { classOf, copyTokenizer } from "../save.js";
import type { CausalLm, Model } from "../types.js";

interface BesideOptions {
  readonly layout: "plain" | "transformers.js";
  /** Model and data files. */
  readonly written: readonly string[];
  readonly preprocessor?: Readonly<Record<string, unknown>>;
  readonly card?: string;
}

interface Beside {
  readonly files: readonly string[];
  readonly notes: readonly string[];
}

type Json = Readonly<Record<string, unknown>>;

/** Writes what programs read besides the graph: config, tokenizer, generation defaults, preprocessing, a card. */
export async function writeBeside(model: Model, folder: string, options: BesideOptions): Promise<Beside> {
  const files = await copyTokenizer(model, folder, undefined);
  const notes: string[] = [];
  const put = async (name: string, text: string) => {
    await writeFileAtomic(joinPath(folder, name), text);
    if (!files.includes(name)) files.push(name);
  };
  if (options.layout === "transformers.js") {
    await writeTokenizer(model, folder, files, put);
    await writeGeneration(model, files, put);
    notes.push(...(await writePreprocessor(model, options, put)));
  }
  const isEmpty = Object.keys(model.config).length === 0;
  if (!isEmpty) await put("config.json", configText(configFor(model, options)));
  else if (options.layout === "transformers.js")
    notes.push(
      "no config.json: the model came without one; transformers.js needs its `model_type` and sizes",
    );
  if (options.card !== undefined) await put("README.md", options.card);
  return { files: files.map((name) => joinPath(folder, name)), notes };
}

type Put = (name: string, text: string) => Promise<void>;
const jsonText = (value: unknown) => `${JSON.stringify(value, undefined, 2)}\n`;

/** transformers.js reads tokenizer.json alone; other kinds of tokenizer files are written as one. */
async function writeTokenizer(
  model: Model,
  folder: string,
  files: readonly string[],
  put: Put,
): Promise<void> {
  const { tokenizer } = model;
  if (!tokenizer) return;
  if (!files.includes("tokenizer.json")) await put("tokenizer.json", jsonText(tokenizer.toJson()));
  const path = joinPath(folder, "tokenizer_config.json");
  const config = (await fileExists(path)) ? await readJson(path) : {};
  const named = (id: number | undefined, key: string) => {
    const told = id ?? model.config[key];
    return typeof told === "number" ? tokenizer.idToToken(told) : undefined;
  };
  const added = {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: named(tokenizer.bosId, "bos_token_id"),
    eos_token: named(tokenizer.eosId, "eos_token_id"),
    pad_token: named(tokenizer.padId, "pad_token_id"),
    unk_token: named(tokenizer.unkId, "unk_token_id"),
    // Without it the pipelines leave out what the tokenizer itself puts first.
    add_bos_token: tokenizer.bosId !== undefined && tokenizer.encode("a")[0] === tokenizer.bosId,
  };
  const given = Object.entries(added).filter(([key, value]) => value !== undefined && !(key in config));
  const template = tokenizer.chatTemplate === undefined ? {} : { chat_template: tokenizer.chatTemplate };
  await put("tokenizer_config.json", jsonText({ ...config, ...Object.fromEntries(given), ...template }));
}

async function writeGeneration(model: Model, files: readonly string[], put: Put): Promise<void> {
  const generates = model.task === "causal-lm" || model.task === "seq2seq";
  if (!generates || files.includes("generation_config.json")) return;
  const { config, tokenizer } = model;
  const told = {
    bos_token_id: config.bos_token_id ?? tokenizer?.bosId,
    eos_token_id: config.eos_token_id ?? tokenizer?.eosId,
    pad_token_id: config.pad_token_id ?? tokenizer?.padId,
    decoder_start_token_id: model.task === "seq2seq" ? model.decoder?.startId : undefined,
  };
  const known = Object.entries(told).filter(([, value]) => value !== undefined && value !== null);
  await put("generation_config.json", jsonText(Object.fromEntries(known)));
}

const PREPROCESSOR = "preprocessor_config.json";

/** How images and sounds become tensors belongs to the training of a model: it is copied or given, never guessed. */
async function writePreprocessor(model: Model, options: BesideOptions, put: Put): Promise<string[]> {
  const needed =
    model.task !== "causal-lm" &&
    model.inputs.some(({ name }) => name === "pixel_values" || /^input_(features|values)$/.test(name));
  if (options.preprocessor) await put(PREPROCESSOR, jsonText(options.preprocessor));
  if (!needed || options.preprocessor) return [];
  const own = await besideModel(model, PREPROCESSOR);
  const made = own ? await readJson(own) : whisperFeatures(model);
  if (!made)
    return [`no ${PREPROCESSOR}: the model came without one; give its content as { preprocessor: {...} }`];
  await put(PREPROCESSOR, jsonText(made));
  return [];
}

/** A file that lies beside the model's own, or above an `onnx` folder. */
async function besideModel({ origin }: Model, name: string): Promise<string | undefined> {
  if (origin === undefined || !(await fileExists(origin))) return undefined;
  const folder = (await stat(origin)).isDirectory ? origin : dirname(origin);
  const places = basename(folder) === "onnx" ? [folder, joinPath(folder, "..")] : [folder];
  for (const place of places) {
    const path = joinPath(place, name);
    if (await fileExists(path)) return path;
  }
  return undefined;
}

/** All Whispers hear alike: 16 kHz, windows of 25 ms every 10 ms. */
function whisperFeatures({ architecture, config }: Model): Json | undefined {
  if (architecture !== "whisper") return undefined;
  const hop = 160;
  const rate = 16_000;
  const frames = 2 * Number(config.max_source_positions ?? 1500);
  return {
    feature_extractor_type: "WhisperFeatureExtractor",
    processor_class: "WhisperProcessor",
    feature_size: Number(config.num_mel_bins ?? 80),
    sampling_rate: rate,
    hop_length: hop,
    n_fft: 400,
    n_samples: frames * hop,
    nb_max_frames: frames,
    chunk_length: (frames * hop) / rate,
    padding_side: "right",
    padding_value: 0,
    return_attention_mask: false,
  };
}

/** The config with what transformers.js looks for: sizes of the cache by name, and which files have data beside them. */
function configFor(model: Model, { layout, written }: BesideOptions): Json {
  const own = withClass(model);
  if (layout === "plain") return own;
  const data = written
    .filter((path) => path.endsWith("_data"))
    .map((path) => basename(path).slice(0, -"_data".length));
  const external = Object.fromEntries(data.map((name) => [name, 1]));
  // In browsers it looks for 8 bits unless it is told otherwise.
  const hasQuantized = written.some((path) => path.endsWith("_quantized.onnx"));
  const js = {
    ...(hasQuantized ? {} : { dtype: "fp32" }),
    ...(data.length > 0 ? { use_external_data_format: external } : {}),
  };
  const sizes = model.task === "causal-lm" ? cacheSizes(model) : {};
  const { "transformers.js_config": _, ...config } = own;
  return {
    ...sizes,
    ...config,
    ...(Object.keys(js).length > 0 ? { "transformers.js_config": js } : {}),
  };
}

/** The config with the class of the model's task, which need not be that of the file it came from. */
function withClass(model: Model): Json {
  const { architectures: before, ...rest } = model.config;
  const name = classOf(model);
  if (name !== undefined) return { architectures: [name], ...rest };
  return before === undefined || model.architecture !== "onnx" ? rest : model.config;
}

const cacheSizes = ({ sizes, config }: CausalLm): Json =>
  "n_layer" in config
    ? {}
    : { num_hidden_layers: sizes.layers, num_key_value_heads: sizes.kvHeads, head_dim: sizes.headDim };
