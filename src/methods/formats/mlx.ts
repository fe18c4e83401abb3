import { z } from "zod";
import { type Tensor, toFloat32 } from "../../tensor/index.js";
import {
  fromPeft,
  invalid,
  isEmbeddingPath,
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

const schema = z.looseObject({
  fine_tune_type: z.string().default("lora"),
  lora_parameters: z.looseObject({
    rank: z.number().int().positive().optional(),
    scale: z.number().optional(),
    alpha: z.number().optional(),
  }),
});

/** Prefixes of MLX-LM's modules where they are not those of Hugging Face's model. */
const RENAMED: Readonly<Record<string, readonly [hub: string, mlx: string]>> = {
  gpt2: ["transformer.", "model."],
};

/** An adapter folder of MLX-LM: `adapters.safetensors` and `adapter_config.json`. */
export interface MlxAdapter {
  readonly tensors: NamedTensors;
  readonly config: Readonly<Record<string, unknown>>;
}

export interface MlxOptions {
  /** `model_type` of the base, for the models whose modules MLX-LM names otherwise (`gpt2`). */
  readonly modelType?: string;
}

/**
 * An adapter of MLX-LM (LoRA or DoRA) in PEFT's names. MLX keeps the factors transposed, `lora_a` `[in, r]` and
 * `lora_b` `[r, out]`, and one scale for all modules, which becomes `lora_alpha` = scale · r.
 *
 * Throws `adapter-invalid` for fully tuned models, mixture-of-experts layers, a config without scale, or half a pair.
 *
 * @param adapter Tensors of `adapters.safetensors` (or `.npz`) and the object of `adapter_config.json`.
 * @example
 * ```ts
 * import { fromMlx } from "tunesmith/methods";
 * import { loadAll, openSafetensors } from "tunesmith/tensor";
 * const file = await openSafetensors("adapters/adapters.safetensors");
 * const config = { fine_tune_type: "lora", lora_parameters: { rank: 8, scale: 20 } };
 * const adapter = fromMlx({ tensors: await loadAll({ tensors: file.entries }), config });
 * ```
 */
export function fromMlx({ tensors, config }: MlxAdapter, options: MlxOptions = {}): PeftTensors {
  const parsed = schema.safeParse(config);
  if (!parsed.success)
    throw invalid("the config of the MLX adapter has no lora_parameters", "give its adapter_config.json");
  const { fine_tune_type: type, lora_parameters: parameters } = parsed.data;
  if (type !== "lora" && type !== "dora") {
    throw invalid(
      `fine_tune_type '${type}' is no adapter`,
      "only lora and dora convert; save the merged model instead",
    );
  }
  const found = new Map<string, Map<string, Tensor>>();
  const saved = new Map<string, Tensor>();
  for (const [name, value] of tensors) {
    const match = /^(.*)\.(lora_a|lora_b|m)$/.exec(name);
    const path = renamed(match?.[1] ?? name, options, false);
    if (match) put(found, path, match[2] ?? "", value);
    else saved.set(path, value);
  }
  const modules = [...found].map(([path, entries]): LoraModule => {
    const { a, b } = pair(entries, path, ["lora_a", "lora_b"]);
    const rank = a.shape.at(-1) ?? 1;
    const scale = parameters.scale ?? (parameters.alpha === undefined ? undefined : parameters.alpha / rank);
    if (scale === undefined)
      throw invalid("the config of the MLX adapter has no scale", "put lora_parameters.scale into it");
    return {
      path,
      a: transposed(a, `${path}.lora_a`),
      b: transposed(b, `${path}.lora_b`),
      scale,
      embedding: isEmbeddingPath(path),
      magnitude: entries.get("m"),
    };
  });
  return toPeft({ modules, saved });
}

function renamed(path: string, { modelType }: MlxOptions, toMlxNames: boolean): string {
  const rule = modelType === undefined ? undefined : RENAMED[modelType];
  if (!rule) return path;
  const [from, to] = toMlxNames ? rule : [rule[1], rule[0]];
  return path.startsWith(from) ? `${to}${path.slice(from.length)}` : path;
}

export interface ToMlxOptions extends MlxOptions {
  /** Layers of the base; MLX-LM counts adapted ones from the last. Default: one more than the highest adapted layer. */
  readonly layers?: number;
}

/**
 * An adapter as MLX-LM loads it. There all modules have one rank and one scale: smaller ranks are filled up with zeros, and other
 * scales are multiplied into B.
 *
 * Throws `adapter-invalid` for biases and convolutions.
 *
 * @example
 * ```ts
 * import { type PeftTensors, toMlx } from "tunesmith/methods";
 * import { writeSafetensors } from "tunesmith/tensor";
 * const save = async (adapter: PeftTensors) => {
 *   const { tensors } = toMlx(adapter, { layers: 12 });
 *   await writeSafetensors("adapters.safetensors", tensors);
 * };
 * ```
 */
export function toMlx(adapter: PeftTensors, options: ToMlxOptions = {}): MlxAdapter {
  const parts = fromPeft(adapter);
  refuse(parts, "MLX-LM", {});
  const rank = Math.max(...parts.modules.map(rankOf));
  const scale = parts.modules[0]?.scale ?? 1;
  const tensors = new Map<string, Tensor>();
  const keys = new Set<string>();
  const indices: number[] = [];
  for (const module of parts.modules) {
    const path = renamed(module.path, options, true);
    const b = scaled(module.b, module.scale / scale);
    tensors.set(`${path}.lora_a`, transposed(filled(module.a, [rank, module.a.shape[1] ?? 0]), path));
    tensors.set(`${path}.lora_b`, transposed(filled(b, [b.shape[0] ?? 0, rank]), path));
    if (module.magnitude) tensors.set(`${path}.m`, module.magnitude);
    const inLayer = /^(?:.*?\.)?(?:layers|h|blocks)\.(\d+)\.(.*)$/.exec(path);
    keys.add(inLayer?.[2] ?? path);
    if (inLayer) indices.push(Number(inLayer[1]));
  }
  for (const [name, value] of parts.saved) tensors.set(renamed(name, options, true), value);
  const layers = options.layers ?? Math.max(-1, ...indices) + 1;
  const config = {
    fine_tune_type: parts.modules.some((module) => module.magnitude) ? "dora" : "lora",
    num_layers: indices.length > 0 ? layers - Math.min(...indices) : layers,
    lora_parameters: { rank, scale, dropout: 0, keys: [...keys].sort() },
  };
  return { tensors, config };
}

/** A matrix inside a larger one of zeros. */
function filled(source: Tensor, shape: readonly [number, number]): Tensor {
  const [rows = 0, columns = 0] = source.shape;
  if (source.shape.length !== 2)
    throw invalid(`a factor of shape [${source.shape}] is no matrix`, "only linear layers convert to MLX");
  if (rows === shape[0] && columns === shape[1]) return source;
  const from = toFloat32(source);
  const data = new Float32Array(shape[0] * shape[1]);
  for (let row = 0; row < rows; row++)
    data.set(from.subarray(row * columns, (row + 1) * columns), row * shape[1]);
  return { dtype: "float32", shape: [...shape], data };
}
