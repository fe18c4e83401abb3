import type { Tensor } from "../../tensor/index.js";
import {
  fromPeft,
  invalid,
  type LoraModule,
  type NamedTensors,
  onlyNumber,
  type PeftTensors,
  pair,
  put,
  refuse,
  toPeft,
} from "./parts.js";

/** Key of the safetensors metadata under which diffusers keeps the LoRA configs of the parts. */
export const DIFFUSERS_METADATA_KEY = "lora_adapter_metadata";

/** Endings of all generations of diffusers, and the role and (where it was renamed) the module they mean; first match wins. */
const ENDINGS: readonly (readonly [RegExp, string])[] = [
  [/\.processor\.to_(q|k|v)_lora\.(down|up)\.weight$/, ".to_$1|$2"],
  [/\.processor\.to_out_lora\.(down|up)\.weight$/, ".to_out.0|$1"],
  [/\.to_(q|k|v)_lora\.(down|up)\.weight$/, ".to_$1|$2"],
  [/\.to_out_lora\.(down|up)\.weight$/, ".to_out.0|$1"],
  [/\.lora_linear_layer\.(down|up)\.weight$/, "|$1"],
  [/\.lora\.(down|up)\.weight$/, "|$1"],
  [/\.lora_A\.weight$/, "|down"],
  [/\.lora_B\.weight$/, "|up"],
  [/\.lora_magnitude_vector(\.weight)?$/, "|magnitude"],
  [/\.alpha$/, "|alpha"],
];

/** In text encoders the old names stand for the projections of CLIP. */
const CLIP: Readonly<Record<string, string>> = {
  to_q: "q_proj",
  to_k: "k_proj",
  to_v: "v_proj",
  "to_out.0": "out_proj",
};

export interface DiffusersLora {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** For the safetensors file. */
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * An adapter that diffusers wrote (`unet.….to_q.lora_A.weight`, `….lora.down.weight`, and the old
 * `….processor.to_q_lora.down.weight`, `….lora_linear_layer.up.weight`) as one PEFT adapter for each part of the pipeline. The scale comes from
 * the file's metadata, else from `.alpha` tensors, else it is 1, as in diffusers.
 *
 * Throws `adapter-invalid` for names of another format or half a pair.
 *
 * @param metadata The metadata of the safetensors file.
 * @example
 * ```ts
 * import { fromDiffusers } from "tunesmith/methods";
 * import { loadAll, openSafetensors } from "tunesmith/tensor";
 * const file = await openSafetensors("pytorch_lora_weights.safetensors");
 * const parts = fromDiffusers(await loadAll({ tensors: file.entries }), file.metadata);
 * console.log([...parts.keys()]);
 * ```
 */
export function fromDiffusers(
  tensors: NamedTensors,
  metadata: ReadonlyMap<string, string> = new Map(),
): Map<string, PeftTensors> {
  const configs = configsOf(metadata.get(DIFFUSERS_METADATA_KEY));
  const components = new Map<string, Map<string, Map<string, Tensor>>>();
  for (const [name, value] of tensors) {
    const dot = name.indexOf(".");
    const component = name.slice(0, dot);
    const [path, role] = placeOf(name, component, name.slice(dot));
    const found = components.get(component) ?? new Map<string, Map<string, Tensor>>();
    components.set(component, found);
    put(found, path, role, value);
  }
  const adapters = new Map<string, PeftTensors>();
  for (const [component, found] of components) {
    const config = configs.get(component);
    const modules = [...found].map(([path, entries]) => moduleOf(path, entries));
    const adapter = toPeft({ modules, saved: new Map() });
    adapters.set(component, config ? rescaled(adapter, config) : adapter);
  }
  return adapters;
}

function placeOf(name: string, component: string, rest: string): [string, string] {
  for (const [ending, replacement] of ENDINGS) {
    if (component === "" || !ending.test(rest)) continue;
    const [path = "", role = ""] = rest.replace(ending, replacement).split("|");
    const old = component.startsWith("text_encoder")
      ? /\.(to_q|to_k|to_v|to_out\.0)$/.exec(path)?.[1]
      : undefined;
    const renamed = old === undefined ? path : `${path.slice(0, -old.length)}${CLIP[old]}`;
    return [renamed.slice(1), role];
  }
  throw invalid(`'${name}' is not a name of diffusers`, "name the format that the file has");
}

function moduleOf(path: string, entries: ReadonlyMap<string, Tensor>): LoraModule {
  const { a, b } = pair(entries, path, ["down", "up"]);
  const rank = a.shape[0] ?? 1;
  const alpha = entries.get("alpha");
  const scale = (alpha ? onlyNumber(alpha, `${path}.alpha`) : rank) / rank;
  return { path, a, b, scale, embedding: false, magnitude: entries.get("magnitude") };
}

/** The configs of the metadata by part: `{"unet.r": 8, "unet.lora_alpha": 16, ...}`. */
function configsOf(text: string | undefined): Map<string, Record<string, unknown>> {
  const configs = new Map<string, Record<string, unknown>>();
  if (text === undefined) return configs;
  let flat: unknown;
  try {
    flat = JSON.parse(text);
  } catch {
    flat = undefined;
  }
  if (typeof flat !== "object" || flat === null)
    throw invalid(`the metadata '${DIFFUSERS_METADATA_KEY}' is damaged`, "write the file again");
  for (const [key, value] of Object.entries(flat)) {
    const dot = key.indexOf(".");
    const config = configs.get(key.slice(0, dot)) ?? {};
    config[key.slice(dot + 1)] = value;
    configs.set(key.slice(0, dot), config);
  }
  return configs;
}

/** The adapter with the scales of a config; ranks and targets stay those of the tensors. */
function rescaled(adapter: PeftTensors, config: Readonly<Record<string, unknown>>): PeftTensors {
  const { lora_alpha: alpha, alpha_pattern: patterns, use_rslora: rslora } = config;
  if (typeof alpha !== "number") return adapter;
  const table = typeof patterns === "object" && patterns !== null ? (patterns as Record<string, number>) : {};
  const read = fromPeft({
    tensors: adapter.tensors,
    config: { ...adapter.config, lora_alpha: alpha, alpha_pattern: table, use_rslora: rslora === true },
  });
  return toPeft(read);
}

/**
 * Adapters of the parts of a pipeline as diffusers writes them today, with their configs in the metadata.
 *
 * Throws `adapter-invalid` for biases, embeddings and modules trained whole.
 *
 * @param components Adapters by part: `unet`, `transformer`, `text_encoder`, `text_encoder_2`.
 */
export function toDiffusers(components: ReadonlyMap<string, PeftTensors>): DiffusersLora {
  const tensors = new Map<string, Tensor>();
  const configs: Record<string, unknown> = {};
  for (const [component, adapter] of components) {
    const parts = fromPeft(adapter);
    refuse(parts, "diffusers", { saved: true, embedding: true });
    for (const { path, a, b, magnitude } of parts.modules) {
      tensors.set(`${component}.${path}.lora_A.weight`, a);
      tensors.set(`${component}.${path}.lora_B.weight`, b);
      if (magnitude) tensors.set(`${component}.${path}.lora_magnitude_vector`, magnitude);
    }
    const { config } = toPeft(parts);
    const kept = [
      "r",
      "lora_alpha",
      "rank_pattern",
      "alpha_pattern",
      "target_modules",
      "use_dora",
      "use_rslora",
    ];
    for (const key of kept) configs[`${component}.${key}`] = config[key];
  }
  return { tensors, metadata: { format: "pt", [DIFFUSERS_METADATA_KEY]: JSON.stringify(configs) } };
}
