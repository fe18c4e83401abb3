import { type ByteSource, basename, dirname, joinPath, listDir, openFile, stat } from "#io";
import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import { readTensor, type Tensor, type TensorRef } from "../tensor/index.js";
import { causalLm } from "./causal-lm.js";
import { tokenizerIn } from "./tokenizer-files.js";
import type { CausalLm } from "./types.js";

/** Tokenizers beside a checkpoint end in .bin too. */
const TOKENIZER_NAME = /^tok(enizer)?\d*\.bin$/;
/** "ak42" as a little-endian integer. */
const MAGIC = 0x616b3432;
const LEGACY_HEADER = 28;
const VERSIONED_HEADER = 256;
/** Both are constants of llama2.c, not stored in its files. */
const EPSILON = 1e-5;
const THETA = 10000;

interface Header {
  readonly version: 0 | 1;
  readonly dim: number;
  readonly hiddenDim: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly vocabSize: number;
  readonly sequenceLength: number;
  /** The output head is the embedding. */
  readonly tied: boolean;
}

/**
 * Loads a llama2.c checkpoint: a `.bin` file, or a folder that holds one and its tokenizer (`tokenizer.bin`,
 * `tok512.bin`, ...). The legacy header and version 1 (`ak42`, float32) are read. It becomes a Llama model with the
 * names, the config and the weight layout of Hugging Face's, so that adapters and saved folders are ordinary ones.
 *
 * Weights stay in the file, except the query and key projections: llama2.c rotates neighbouring features (2i, 2i+1),
 * Hugging Face's Llama rotates feature i with i + dim/2, so their rows are reordered within each head, once.
 *
 * Throws `file-not-found`, `file-corrupt` (sizes that do not add up to the file), `format-unsupported` (quantised).
 *
 * @param path The checkpoint or its folder.
 * @example
 * ```ts
 * import { loadLlama2c } from "tunesmith/models";
 * const model = await loadLlama2c("stories260K");
 * console.log(model.sizes.layers, model.tokenizer?.vocabSize);
 * ```
 */
export async function loadLlama2c(path: string): Promise<CausalLm> {
  const file = (await stat(path)).isDirectory ? await checkpointIn(path) : path;
  const source = await openFile(file);
  try {
    const header = await readHeader(source);
    const weights = new Map<string, Value>();
    for (const [name, data] of await weightsOf(source, header)) weights.set(name, constant(data, name));
    const tokenizer = await tokenizerIn(dirname(file));
    return causalLm(configOf(header), weights, { origin: file, tokenizer });
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** The llama2.c checkpoint of a folder, if there is exactly one `.bin` that is no tokenizer. */
export async function findLlama2c(folder: string): Promise<string | undefined> {
  const names = (await listDir(folder)).filter((name) => name.endsWith(".bin") && !TOKENIZER_NAME.test(name));
  return names.length === 1 ? joinPath(folder, String(names[0])) : undefined;
}

async function checkpointIn(folder: string): Promise<string> {
  const found = await findLlama2c(folder);
  if (found) return found;
  const names = (await listDir(folder)).filter((name) => name.endsWith(".bin"));
  throw new TunesmithError(
    "file-not-found",
    `${folder}: not one llama2.c checkpoint (*.bin) in this folder`,
    {
      fix: `name the checkpoint file itself${names.length > 0 ? `; the folder holds ${names.join(", ")}` : ""}`,
      details: { folder, found: names },
    },
  );
}

async function readHeader(source: ByteSource): Promise<Header> {
  const bytes = await source.read(0, Math.min(source.size, VERSIONED_HEADER));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < LEGACY_HEADER) throw corrupt(source, "it is shorter than a header");
  const versioned = view.getUint32(0, true) === MAGIC;
  if (versioned && view.getInt32(4, true) !== 1) {
    throw new TunesmithError(
      "format-unsupported",
      `${source.name}: llama2.c version ${view.getInt32(4, true)} is not supported`,
      {
        fix: "export it as float32: export.py --version 0 or 1",
      },
    );
  }
  if (versioned && bytes.byteLength < VERSIONED_HEADER) throw corrupt(source, "it is shorter than a header");
  const at = (index: number) => view.getInt32((versioned ? 8 : 0) + 4 * index, true);
  const vocabulary = at(5);
  const header: Header = {
    version: versioned ? 1 : 0,
    dim: at(0),
    hiddenDim: at(1),
    layers: at(2),
    heads: at(3),
    kvHeads: at(4),
    vocabSize: Math.abs(vocabulary),
    sequenceLength: at(6),
    tied: versioned ? view.getUint8(36) !== 0 : vocabulary > 0,
  };
  checkHeader(source, header);
  return header;
}

function checkHeader(source: ByteSource, header: Header): void {
  const { dim, heads, kvHeads } = header;
  for (const [key, value] of Object.entries(header)) {
    if (typeof value === "number" && key !== "version" && !(value > 0 && value < 2 ** 24)) {
      throw corrupt(source, `its header says ${key} = ${value}`);
    }
  }
  if (dim % heads !== 0 || (dim / heads) % 2 !== 0 || heads % kvHeads !== 0) {
    throw corrupt(source, `its header says ${heads} heads (${kvHeads} for keys) of a width of ${dim}`);
  }
}

function configOf(header: Header): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    // llama2.c ends a text with the token that begins one.
    bos_token_id: 1,
    eos_token_id: [1, 2],
    hidden_act: "silu",
    hidden_size: header.dim,
    intermediate_size: header.hiddenDim,
    max_position_embeddings: header.sequenceLength,
    model_type: "llama",
    num_attention_heads: header.heads,
    num_hidden_layers: header.layers,
    num_key_value_heads: header.kvHeads,
    rms_norm_eps: EPSILON,
    rope_theta: THETA,
    tie_word_embeddings: header.tied,
    torch_dtype: "float32",
    vocab_size: header.vocabSize,
  };
}

/** Sections of the file in order: name of the tensor (`*` is the layer), its shape; an empty name is skipped. */
type Section = readonly [name: string, shape: readonly number[]];

function sectionsOf(header: Header): Section[] {
  const { dim, hiddenDim, heads, kvHeads, vocabSize, sequenceLength } = header;
  const keys = (dim / heads) * kvHeads;
  const layer = (name: string, ...shape: number[]): Section => [`model.layers.*.${name}.weight`, shape];
  const embedding: Section = ["model.embed_tokens.weight", [vocabSize, dim]];
  const head: Section[] = header.tied ? [] : [["lm_head.weight", [vocabSize, dim]]];
  const norm: Section = ["model.norm.weight", [dim]];
  const before = layer("input_layernorm", dim);
  const after = layer("post_attention_layernorm", dim);
  const attention = [
    layer("self_attn.q_proj", dim, dim),
    layer("self_attn.k_proj", keys, dim),
    layer("self_attn.v_proj", keys, dim),
    layer("self_attn.o_proj", dim, dim),
  ];
  const mlp = [
    layer("mlp.gate_proj", hiddenDim, dim),
    layer("mlp.down_proj", dim, hiddenDim),
    layer("mlp.up_proj", hiddenDim, dim),
  ];
  if (header.version === 1) return [before, after, norm, embedding, ...attention, ...mlp, ...head];
  // Rotation tables, which are computed from the config instead.
  const tables: Section = ["", [2, sequenceLength, dim / heads / 2]];
  return [embedding, before, ...attention, after, ...mlp, norm, tables, ...head];
}

async function weightsOf(source: ByteSource, header: Header): Promise<[string, Tensor | TensorRef][]> {
  const refs: TensorRef[] = [];
  let offset = header.version === 1 ? VERSIONED_HEADER : LEGACY_HEADER;
  for (const [pattern, shape] of sectionsOf(header)) {
    const byteLength = 4 * shape.reduce((a, b) => a * b, 1);
    const count = pattern.includes("*") ? header.layers : 1;
    if (offset + count * byteLength > source.size) throw wrongSize(source, header);
    for (let layer = 0; layer < count; layer++, offset += byteLength) {
      if (pattern === "") continue;
      refs.push({
        dtype: "float32",
        shape,
        source,
        offset,
        byteLength,
        name: pattern.replace("*", String(layer)),
      });
    }
  }
  if (offset !== source.size) throw wrongSize(source, header);
  const headDim = header.dim / header.heads;
  const result: [string, Tensor | TensorRef][] = [];
  for (const ref of refs) {
    const rotated = /\.[qk]_proj\.weight$/.test(ref.name);
    result.push([ref.name, rotated ? halvesFromPairs(await readTensor(ref), headDim) : ref]);
  }
  return result;
}

/** Reorders the rows of each head: the even ones, then the odd ones. */
function halvesFromPairs(weight: Tensor, headDim: number): Tensor {
  const [rows, columns] = weight.shape as [number, number];
  const from = weight.data as Float32Array;
  const to = new Float32Array(from.length);
  for (let row = 0; row < rows; row++) {
    const within = row % headDim;
    const half = headDim / 2;
    const pair = within < half ? 2 * within : 2 * (within - half) + 1;
    const start = (row - within + pair) * columns;
    to.set(from.subarray(start, start + columns), row * columns);
  }
  return { ...weight, data: to };
}

function corrupt(source: ByteSource, why: string): TunesmithError {
  return new TunesmithError("file-corrupt", `${source.name} is not a llama2.c checkpoint: ${why}`, {
    fix: `check that ${basename(source.name)} was written by llama2.c's export.py, and copy it again`,
    details: { path: source.name },
  });
}

function wrongSize(source: ByteSource, header: Header): TunesmithError {
  const { dim, layers, vocabSize } = header;
  const told = `${layers} layers of width ${dim} with ${vocabSize} tokens`;
  return corrupt(source, `${source.size} bytes are not what its header (${told}) asks for`);
}
