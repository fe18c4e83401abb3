import { type Tensor, tensor } from "../../tensor/index.js";
import {
  fromPeft,
  invalid,
  type LoraModule,
  type NamedTensors,
  onlyNumber,
  type PeftTensors,
  pair,
  put,
  rankOf,
  refuse,
  toPeft,
} from "./parts.js";

/** Parts of a diffusion pipeline by the prefix kohya's scripts give them; the first prefix of a part is written. */
const COMPONENTS: readonly (readonly [string, string])[] = [
  ["lora_unet_", "unet"],
  ["lora_te1_", "text_encoder"],
  ["lora_te_", "text_encoder"],
  ["lora_te2_", "text_encoder_2"],
  ["lora_te3_", "text_encoder_3"],
  ["lora_transformer_", "transformer"],
];

/** Names of modules that hold underscores themselves; kohya's names have underscores for dots too. */
const COMPOUND = new Set(
  `add_embedding add_k_proj add_q_proj add_v_proj c_attn c_fc c_proj conv_in conv_out conv_shortcut double_blocks
  down_blocks down_proj embed_tokens emb_layers encoder_attn ff_context gate_proj img_attn img_mlp img_mod in_layers
  input_blocks k_proj label_emb linear_1 linear_2 lm_head mid_block middle_block o_proj out_layers out_proj output_blocks
  position_embedding proj_in proj_mlp proj_out q_proj self_attn self_attention single_blocks single_transformer_blocks
  skip_connection text_model text_projection time_emb_proj time_embed time_embedding to_add_out to_k to_out to_q to_v
  token_embedding transformer_blocks txt_attn txt_mlp txt_mod up_blocks up_proj v_proj`.split(/\s+/),
);

export interface FromKohyaOptions {
  /**
   * Module paths of the base, by part (`unet`, `text_encoder`, ...), which the names are matched with. Without them the usual names of
   * diffusion models and transformers are recognised.
   */
  readonly modules?: Readonly<Record<string, Iterable<string>>>;
}

/**
 * An adapter with the names of kohya's scripts (`lora_unet_down_blocks_0_…_to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`,
 * `.dora_scale`) as one PEFT adapter for each part of the pipeline. A module without `alpha` has scale 1. Names of the original (not
 * diffusers) layout of a UNet keep that layout.
 *
 * Throws `adapter-invalid` for other decompositions (LoHa, LoKr, Tucker), a module that `modules` lacks, or half a pair.
 *
 * @example
 * ```ts
 * import { fromKohya } from "tunesmith/methods";
 * import { loadAll, openSafetensors } from "tunesmith/tensor";
 * const file = await openSafetensors("style.safetensors");
 * const parts = fromKohya(await loadAll({ tensors: file.entries }));
 * console.log(parts.get("unet")?.config.r);
 * ```
 */
export function fromKohya(tensors: NamedTensors, options: FromKohyaOptions = {}): Map<string, PeftTensors> {
  const components = new Map<string, Map<string, Map<string, Tensor>>>();
  for (const [name, value] of tensors) {
    const dot = name.indexOf(".");
    const [flat, role] = [name.slice(0, dot), name.slice(dot + 1)];
    const known = COMPONENTS.find(([prefix]) => flat.startsWith(prefix));
    if (dot < 0 || !known)
      throw invalid(`'${name}' is not a name of kohya's scripts`, "name the format that the file has");
    const [prefix, component] = known;
    const found = components.get(component) ?? new Map<string, Map<string, Tensor>>();
    components.set(component, found);
    put(found, flat.slice(prefix.length), role, value);
  }
  const adapters = new Map<string, PeftTensors>();
  for (const [component, found] of components) {
    const pathOf = resolver(component, options.modules?.[component]);
    const modules = [...found].map(([flat, entries]) => moduleOf(pathOf(flat), entries));
    adapters.set(component, toPeft({ modules, saved: new Map() }));
  }
  return adapters;
}

function resolver(component: string, modules: Iterable<string> | undefined): (flat: string) => string {
  if (!modules) return dotted;
  const known = new Map([...modules].map((path) => [path.replaceAll(".", "_"), path]));
  return (flat) => {
    const path = known.get(flat);
    if (path !== undefined) return path;
    throw invalid(`'${flat}' is no module of ${component}`, "the adapter belongs to another base");
  };
}

/** Dots for the underscores that are not part of a name. */
function dotted(flat: string): string {
  const words = flat.split("_");
  const names: string[] = [];
  for (let at = 0; at < words.length; ) {
    let length = Math.min(3, words.length - at);
    while (length > 1 && !COMPOUND.has(words.slice(at, at + length).join("_"))) length--;
    names.push(words.slice(at, at + length).join("_"));
    at += length;
  }
  return names.join(".");
}

const ROLES = ["lora_down.weight", "lora_up.weight", "alpha", "dora_scale"];

function moduleOf(path: string, entries: ReadonlyMap<string, Tensor>): LoraModule {
  const other = [...entries.keys()].find((role) => !ROLES.includes(role));
  if (other !== undefined) {
    throw invalid(
      `'${path}.${other}' is not part of a LoRA`,
      "only plain LoRA and DoRA convert, not LoHa, LoKr or Tucker forms",
    );
  }
  const { a, b } = pair(entries, path, ["lora_down.weight", "lora_up.weight"]);
  const rank = a.shape[0] ?? 1;
  const alpha = entries.get("alpha");
  return {
    path,
    a,
    b,
    scale: (alpha ? onlyNumber(alpha, `${path}.alpha`) : rank) / rank,
    embedding: false,
    magnitude: magnitudeOf(path, entries.get("dora_scale"), b.shape[0] ?? 0),
  };
}

function magnitudeOf(path: string, value: Tensor | undefined, rows: number): Tensor | undefined {
  if (!value) return undefined;
  // The other axis is what LyCORIS normalises by default in old versions, which is not DoRA.
  if (value.shape[0] !== rows || value.shape.slice(1).some((length) => length !== 1)) {
    throw invalid(
      `'${path}.dora_scale' has shape [${value.shape}], not [${rows}, 1]`,
      "only norms over output rows convert",
    );
  }
  return { ...value, shape: value.shape.length > 2 ? [1, rows, 1, 1] : [rows] };
}

/**
 * Adapters of the parts of a pipeline with the names of kohya's scripts; `alpha` is chosen so that the scale stays.
 *
 * Throws `adapter-invalid` for a part without a prefix there, biases, embeddings and modules trained whole.
 *
 * @param components Adapters by part: `unet`, `transformer`, `text_encoder`, `text_encoder_2`.
 */
export function toKohya(components: ReadonlyMap<string, PeftTensors>): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  const twoEncoders = components.has("text_encoder_2");
  for (const [component, adapter] of components) {
    const prefix = prefixOf(component, twoEncoders);
    const parts = fromPeft(adapter);
    refuse(parts, "the format of kohya's scripts", { saved: true, embedding: true });
    for (const module of parts.modules) {
      const name = `${prefix}${module.path.replaceAll(".", "_")}`;
      if (tensors.has(`${name}.alpha`))
        throw invalid(`two modules are named '${name}'`, "their paths differ only in dots and underscores");
      tensors.set(`${name}.lora_down.weight`, module.a);
      tensors.set(`${name}.lora_up.weight`, module.b);
      tensors.set(`${name}.alpha`, tensor("float32", [], [module.scale * rankOf(module)]));
      const rows = module.b.shape[0] ?? 0;
      const rest = module.b.shape.slice(1).map(() => 1);
      if (module.magnitude)
        tensors.set(`${name}.dora_scale`, { ...module.magnitude, shape: [rows, ...rest] });
    }
  }
  return tensors;
}

function prefixOf(component: string, twoEncoders: boolean): string {
  // With one text encoder kohya's scripts leave out its number.
  if (component === "text_encoder" && !twoEncoders) return "lora_te_";
  const found = COMPONENTS.find(([, name]) => name === component);
  if (found) return found[0];
  const known = [...new Set(COMPONENTS.map(([, name]) => name))].join(", ");
  throw invalid(`kohya's scripts have no part '${component}'`, `name one of ${known}`);
}
