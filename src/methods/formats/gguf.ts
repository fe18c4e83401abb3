import { TunesmithError } from "../../errors/index.js";
import { gather } from "../../tensor/formats/strided.js";
import { bytesOf, type GgufValue, type Tensor } from "../../tensor/index.js";
import {
  fromPeft,
  invalid,
  type LoraModule,
  type NamedTensors,
  type PeftTensors,
  pair,
  put,
  rankOf,
  refuse,
  scaled,
  toPeft,
  transposed,
} from "./parts.js";

/** Modules of Hugging Face's models and of llama.cpp's, below a layer and above all layers. */
interface NameTable {
  readonly layers: string;
  readonly inLayer: Readonly<Record<string, string>>;
  readonly outside: Readonly<Record<string, string>>;
}

const LLAMA: NameTable = {
  layers: "model.layers",
  inLayer: {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
  },
  outside: { "model.embed_tokens": "token_embd", lm_head: "output" },
};

const GPT2: NameTable = {
  layers: "transformer.h",
  inLayer: {
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
  },
  outside: { "transformer.wte": "token_embd", lm_head: "output" },
};

const PHI3: NameTable = {
  layers: "model.layers",
  inLayer: {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
  },
  outside: LLAMA.outside,
};

/** By `general.architecture`. Mistral and SmolLM are `llama` there. */
const TABLES: Readonly<Record<string, NameTable>> = {
  llama: LLAMA,
  qwen2: LLAMA,
  qwen3: LLAMA,
  gemma: LLAMA,
  gemma2: LLAMA,
  gemma3: LLAMA,
  gpt2: GPT2,
  phi3: PHI3,
};

/** Architectures whose query and key rows llama.cpp reorders, for its form of rotary embeddings. */
const REORDERED = ["llama"];

/** Names of GGUF architectures whose LoRA adapters convert. */
export const ggufArchitectures: readonly string[] = Object.keys(TABLES);

export interface GgufLoraOptions {
  /** Attention heads of the base (`num_attention_heads`); needed for `llama` when queries or keys are adapted. */
  readonly heads?: number;
  /** Heads of keys and values (`num_key_value_heads`). Default `heads`. */
  readonly kvHeads?: number;
}

/** A LoRA adapter as llama.cpp loads it. */
export interface GgufLora {
  readonly tensors: NamedTensors;
  readonly metadata: ReadonlyMap<string, GgufValue>;
}

/**
 * A GGUF LoRA adapter (`blk.0.attn_q.weight.lora_a`, `….lora_b`, `adapter.lora.alpha`) in PEFT's names.
 *
 * Throws `adapter-invalid` for a file that is no LoRA adapter, an unknown module or half a pair,
 * `architecture-unsupported`, `config-invalid` when `heads` is needed and missing.
 *
 * @example
 * ```ts
 * import { fromGgufLora } from "tunesmith/methods";
 * import { loadAll, openGguf } from "tunesmith/tensor";
 * const file = await openGguf("adapter.gguf");
 * const adapter = fromGgufLora({ tensors: await loadAll(file), metadata: file.metadata }, { heads: 32, kvHeads: 8 });
 * ```
 */
export function fromGgufLora({ tensors, metadata }: GgufLora, options: GgufLoraOptions = {}): PeftTensors {
  const text = (key: string) => String(metadata.get(key)?.value ?? "");
  if (text("general.type") !== "adapter" || text("adapter.type") !== "lora") {
    throw invalid(
      "the GGUF file is no LoRA adapter",
      "its general.type is adapter and its adapter.type is lora",
    );
  }
  const architecture = text("general.architecture");
  const table = tableOf(architecture);
  const names = inverse(table);
  const found = new Map<string, Map<string, Tensor>>();
  for (const [name, value] of tensors) {
    const match = /^(?:(blk)\.(\d+)\.)?([a-z_]+)\.weight\.(lora_a|lora_b)$/.exec(name);
    const module = match ? names.get(`${match[1] ?? ""}|${match[3]}`) : undefined;
    if (!match || module === undefined)
      throw invalid(
        `'${name}' is no module of ${architecture}`,
        "only its linear layers and embeddings convert",
      );
    put(found, match[1] ? `${table.layers}.${match[2]}.${module}` : module, match[4] ?? "", value);
  }
  const alpha = metadata.get("adapter.lora.alpha")?.value;
  const modules = [...found].map(([path, entries]): LoraModule => {
    const { a, b } = pair(entries, path, ["lora_a", "lora_b"]);
    const embedding = path === "model.embed_tokens" || path === "transformer.wte";
    const rank = b.shape[1] ?? 1;
    // llama.cpp takes a missing alpha, and one of 0, as a scale of 1.
    const scale = typeof alpha === "number" && alpha !== 0 ? alpha / rank : 1;
    const rows = reordering(architecture, path, options);
    return {
      path,
      a: embedding ? transposed(a, path) : a,
      b: rows ? reorderRows(b, rows, path, false) : b,
      scale,
      embedding,
    };
  });
  return toPeft({ modules, saved: new Map() });
}

export interface ToGgufLoraOptions extends GgufLoraOptions {
  /** `general.architecture` of the base: see `ggufArchitectures`. */
  readonly architecture: string;
  /** `general.name`. Default: none. */
  readonly name?: string;
}

/**
 * An adapter as llama.cpp loads it. A file has one alpha, and the scale of a module is alpha over its rank; where PEFT's scales differ (patterns,
 * rsLoRA) the rest is multiplied into B.
 *
 * Throws `architecture-unsupported`, `config-invalid` when `heads` is needed and missing, `adapter-invalid` for DoRA, biases, modules trained whole and modules that llama.cpp
 * has no name for.
 *
 * @example
 * ```ts
 * import { type PeftTensors, toGgufLora } from "tunesmith/methods";
 * import { writeGguf } from "tunesmith/tensor";
 * const save = async (adapter: PeftTensors) => {
 *   const { tensors, metadata } = toGgufLora(adapter, { architecture: "llama", heads: 32, kvHeads: 8 });
 *   await writeGguf("adapter.gguf", tensors, metadata);
 * };
 * ```
 */
export function toGgufLora(adapter: PeftTensors, options: ToGgufLoraOptions): GgufLora {
  const { architecture } = options;
  const table = tableOf(architecture);
  const parts = fromPeft(adapter);
  refuse(parts, "GGUF", { dora: true, saved: true });
  const [first] = parts.modules;
  const alpha = first ? first.scale * rankOf(first) : 1;
  const tensors = new Map<string, Tensor>();
  for (const module of parts.modules) {
    const { path, embedding } = module;
    const name = `${nameOf(table, path, architecture)}.weight`;
    const b = scaled(module.b, (module.scale * rankOf(module)) / alpha);
    const rows = reordering(architecture, path, options);
    tensors.set(`${name}.lora_a`, embedding ? transposed(module.a, path) : module.a);
    tensors.set(`${name}.lora_b`, rows ? reorderRows(b, rows, path, true) : b);
  }
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: architecture }],
    ["general.type", { type: "string", value: "adapter" }],
    ["adapter.type", { type: "string", value: "lora" }],
    ["adapter.lora.alpha", { type: "float32", value: alpha }],
  ]);
  if (options.name !== undefined) metadata.set("general.name", { type: "string", value: options.name });
  return { tensors, metadata };
}

function tableOf(architecture: string): NameTable {
  const table = Object.hasOwn(TABLES, architecture) ? TABLES[architecture] : undefined;
  if (table) return table;
  throw new TunesmithError("architecture-unsupported", `GGUF adapters of '${architecture}' do not convert`, {
    fix: `supported: ${ggufArchitectures.join(", ")}`,
    details: { architecture },
  });
}

function inverse(table: NameTable): Map<string, string> {
  const names = new Map<string, string>();
  for (const [path, name] of Object.entries(table.inLayer)) names.set(`blk|${name}`, path);
  for (const [path, name] of Object.entries(table.outside)) names.set(`|${name}`, path);
  return names;
}

function nameOf(table: NameTable, path: string, architecture: string): string {
  const own = (names: Readonly<Record<string, string>>, key: string) =>
    Object.hasOwn(names, key) ? names[key] : undefined;
  const outside = own(table.outside, path);
  if (outside !== undefined) return outside;
  const inside = path.startsWith(`${table.layers}.`)
    ? /^(\d+)\.(.*)$/.exec(path.slice(table.layers.length + 1))
    : null;
  const name = inside ? own(table.inLayer, inside[2] ?? "") : undefined;
  if (inside && name !== undefined) return `blk.${inside[1]}.${name}`;
  throw invalid(
    `llama.cpp has no name for '${path}' of ${architecture}`,
    "leave it out of the targets, or merge the adapter",
  );
}

/** Heads by which the rows of a module are reordered; undefined when they are not. */
function reordering(architecture: string, path: string, options: GgufLoraOptions): number | undefined {
  const kind = /\.([qk])_proj$/.exec(path)?.[1];
  if (!REORDERED.includes(architecture) || kind === undefined) return undefined;
  const heads = kind === "k" ? (options.kvHeads ?? options.heads) : options.heads;
  if (heads !== undefined && Number.isInteger(heads) && heads > 0) return heads;
  throw new TunesmithError(
    "config-invalid",
    `'${path}': llama.cpp orders the rows of each head differently`,
    {
      fix: "pass heads and kvHeads: num_attention_heads and num_key_value_heads of the base's config.json",
      details: { path, architecture },
    },
  );
}

/** Between halves (Hugging Face) and neighbours (llama.cpp): within each head, row (half, i) is row (i, half). */
function reorderRows(b: Tensor, heads: number, path: string, toNeighbours: boolean): Tensor {
  const [rows = 0, rank = 0] = b.shape;
  const half = rows / heads / 2;
  if (b.shape.length !== 2 || !Number.isInteger(half)) {
    throw new TunesmithError("config-invalid", `'${path}': ${rows} rows are not those of ${heads} heads`, {
      fix: "pass num_attention_heads and num_key_value_heads of the base's config.json",
    });
  }
  const [outer, inner] = toNeighbours ? [half, 2] : [2, half];
  const view = {
    dtype: b.dtype,
    shape: [heads, outer, inner, rank],
    // Position (outer, inner) of the result comes from (inner, outer) of the source.
    strides: [2 * half * rank, rank, outer * rank, 1],
    offset: 0,
  };
  return { ...gather(view, bytesOf(b)), shape: [rows, rank] };
}
