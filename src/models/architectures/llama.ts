import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { dimMul, ops, scope, type Value } from "../../graph/index.js";
import type { KeyValue, LmInputs, LmOutputs } from "../types.js";
import { tokenAxes } from "../types.js";
import type { WeightReader } from "../weights.js";
import type { ArchitectureDefinition } from "./definition.js";
import { attend, maskBuilder, mergeHeads, splitHeads, withPast } from "./parts/attention.js";
import { activation, linear } from "./parts/layers.js";
import { type RopeParameters, type Rotary, ropeSchema, rotary, rotate } from "./parts/rope.js";
import { linearSpecs, type WeightSpec } from "./parts/weight-specs.js";

const layerTypes = z.array(z.enum(["full_attention", "sliding_attention"]));
const schema = z.looseObject({
  model_type: z.string(),
  vocab_size: z.number().int().positive(),
  hidden_size: z.number().int().positive(),
  intermediate_size: z.number().int().positive(),
  num_hidden_layers: z.number().int().positive(),
  num_attention_heads: z.number().int().positive(),
  num_key_value_heads: z.number().int().positive().nullish(),
  head_dim: z.number().int().positive().nullish(),
  max_position_embeddings: z.number().int().positive().default(2048),
  rms_norm_eps: z.number().default(1e-6),
  hidden_act: z.string().nullish(),
  hidden_activation: z.string().nullish(),
  rope_theta: z.number().nullish(),
  rope_local_base_freq: z.number().nullish(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  sliding_window: z.number().int().positive().nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.number().int().nullish(),
  sliding_window_pattern: z.number().int().nullish(),
  layer_types: layerTypes.nullish(),
  query_pre_attn_scalar: z.number().nullish(),
  attn_logit_softcapping: z.number().nullish(),
  final_logit_softcapping: z.number().nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
});
type Config = z.infer<typeof schema>;

/** What sets the members of the family apart; everything else they share, or their config says. */
interface Variant {
  /** RMSNorm multiplies by 1 + weight, and the embedding by sqrt(hidden). */
  readonly gemma: boolean;
  /** Norms after attention and MLP as well as before. */
  readonly postNorms: boolean;
  /** RMSNorm over each query and key head. */
  readonly headNorms: boolean;
  /** Biases on queries, keys and values whatever the config says. */
  readonly queryBias: boolean;
  /** How layers alternate between sliding and full attention when the config does not list it. */
  readonly window: "none" | "all" | "upper" | "alternate" | "pattern";
  readonly tiedByDefault: boolean;
}

const plain: Variant = {
  gemma: false,
  postNorms: false,
  headNorms: false,
  queryBias: false,
  window: "none",
  tiedByDefault: false,
};
const VARIANTS: Readonly<Record<string, Variant>> = {
  llama: plain,
  mistral: { ...plain, window: "all" },
  qwen2: { ...plain, window: "upper", queryBias: true },
  qwen3: { ...plain, window: "upper", headNorms: true },
  gemma: { ...plain, gemma: true, tiedByDefault: true },
  gemma2: { ...plain, gemma: true, postNorms: true, window: "alternate", tiedByDefault: true },
  gemma3_text: {
    gemma: true,
    postNorms: true,
    headNorms: true,
    queryBias: false,
    window: "pattern",
    tiedByDefault: true,
  },
};

function variantOf(config: Config): Variant {
  const variant = VARIANTS[config.model_type];
  if (variant) return variant;
  throw new TunesmithError(
    "architecture-unsupported",
    `model_type '${config.model_type}' is not of the Llama family`,
  );
}

const headDim = (config: Config) => config.head_dim ?? config.hidden_size / config.num_attention_heads;

/** The sliding window of a layer, or undefined for full attention. */
function windowOf(config: Config, layer: number): number | undefined {
  const window = config.sliding_window ?? undefined;
  if (window === undefined) return undefined;
  const listed = config.layer_types?.[layer];
  if (listed) return listed === "sliding_attention" ? window : undefined;
  switch (variantOf(config).window) {
    case "all":
      return window;
    case "upper":
      return config.use_sliding_window && layer >= (config.max_window_layers ?? 0) ? window : undefined;
    case "alternate":
      return layer % 2 === 0 ? window : undefined;
    case "pattern":
      return (layer + 1) % (config.sliding_window_pattern ?? 6) !== 0 ? window : undefined;
    default:
      return undefined;
  }
}

const typeOf = (config: Config) => (layer: number) =>
  windowOf(config, layer) === undefined ? "full_attention" : "sliding_attention";

/** Rope parameters of a kind of layer, from the current nested form or the older flat one. */
function ropeOf(config: Config, sliding: boolean): RopeParameters {
  const nested = config.rope_parameters ?? undefined;
  const perLayer = nested?.[sliding ? "sliding_attention" : "full_attention"];
  if (nested) return parseRope(perLayer ?? nested);
  if (sliding && config.rope_local_base_freq) return { rope_theta: config.rope_local_base_freq };
  return { ...(config.rope_scaling ?? {}), rope_theta: config.rope_theta ?? 10000 };
}

function parseRope(value: unknown): RopeParameters {
  const parsed = ropeSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = ["rope_parameters", ...(issue?.path ?? [])].join(".");
  throw new TunesmithError("config-invalid", `config.json: ${place}: ${issue?.message}`, {
    fix: "compare it with the config of the original checkpoint",
  });
}

interface Block {
  readonly weights: WeightReader;
  readonly config: Config;
  readonly inputs: LmInputs;
  readonly layer: number;
  readonly mask: Value;
  readonly rotary: Rotary;
}

function norm({ weights, config }: Pick<Block, "weights" | "config">, name: string, x: Value): Value {
  return scope(name.slice(name.lastIndexOf(".") + 1), () => {
    const weight = weights.get(`${name}.weight`);
    return ops.rmsNorm(x, variantOf(config).gemma ? ops.add(weight, 1) : weight, config.rms_norm_eps);
  });
}

function attention(block: Block, x: Value): { output: Value; present: KeyValue } {
  const { weights, config, inputs, layer } = block;
  const path = `model.layers.${layer}.self_attn`;
  const dim = headDim(config);
  const heads = config.num_attention_heads;
  const kvHeads = config.num_key_value_heads ?? heads;
  const project = (name: string, count: number) =>
    splitHeads(linear(weights, name, `${path}.${name}`, x), count, dim, tokenAxes(inputs), inputs.ids);
  let [query, key] = [project("q_proj", heads), project("k_proj", kvHeads)];
  const value = project("v_proj", kvHeads);
  if (variantOf(config).headNorms) {
    query = norm(block, `${path}.q_norm`, query);
    key = norm(block, `${path}.k_norm`, key);
  }
  const present = withPast(rotate(key, block.rotary), value, inputs, layer);
  const mixed = attend(rotate(query, block.rotary), present.key, present.value, {
    scale: (config.query_pre_attn_scalar ?? dim) ** -0.5,
    mask: block.mask,
    softcap: config.attn_logit_softcapping ?? undefined,
  });
  return { output: linear(weights, "o_proj", `${path}.o_proj`, mergeHeads(mixed, inputs.ids)), present };
}

function mlp({ weights, config, layer }: Block, x: Value): Value {
  const path = `model.layers.${layer}.mlp`;
  const act = activation(config.hidden_activation ?? config.hidden_act ?? "silu");
  const gate = act(linear(weights, "gate_proj", `${path}.gate_proj`, x));
  return linear(
    weights,
    "down_proj",
    `${path}.down_proj`,
    ops.mul(gate, linear(weights, "up_proj", `${path}.up_proj`, x)),
  );
}

function decoderLayer(block: Block, x: Value): { output: Value; present: KeyValue } {
  const path = `model.layers.${block.layer}`;
  const { postNorms } = variantOf(block.config);
  const normed = norm(block, `${path}.input_layernorm`, x);
  const attended = scope("self_attn", () => attention(block, normed));
  const mixed = postNorms
    ? norm(block, `${path}.post_attention_layernorm`, attended.output)
    : attended.output;
  const middle = ops.keep(ops.add(x, mixed));
  const before = norm(block, `${path}.${postNorms ? "pre_feedforward" : "post_attention"}_layernorm`, middle);
  const fed = scope("mlp", () => mlp(block, before));
  const output = postNorms ? norm(block, `${path}.post_feedforward_layernorm`, fed) : fed;
  return { output: ops.add(middle, output), present: attended.present };
}

function build(config: Config, weights: WeightReader, inputs: LmInputs): LmOutputs {
  const { batch, length } = tokenAxes(inputs);
  const variant = variantOf(config);
  const masks = maskBuilder(inputs);
  const tables = new Map<boolean, Rotary>();
  const rotaryFor = (sliding: boolean) => {
    const table =
      tables.get(sliding) ??
      rotary(inputs.positions, headDim(config), ropeOf(config, sliding), config.max_position_embeddings);
    tables.set(sliding, table);
    return table;
  };
  let x = scope("model.embed_tokens", () => ops.gather(weights.get("model.embed_tokens.weight"), inputs.ids));
  x = ops.reshape(x, [dimMul(batch, length), config.hidden_size], [inputs.ids]);
  if (variant.gemma) x = ops.mul(x, Math.sqrt(config.hidden_size));
  const boundaries = [x];
  const present: KeyValue[] = [];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const window = windowOf(config, layer);
    const block = {
      weights,
      config,
      inputs,
      layer,
      mask: masks(window),
      rotary: rotaryFor(window !== undefined),
    };
    const result = scope(`model.layers.${layer}`, () => decoderLayer(block, x));
    x = result.output;
    present.push(result.present);
    boundaries.push(x);
  }
  const hidden = scope("model", () => norm({ weights, config }, "model.norm", x));
  const head = weights.has("lm_head.weight") ? "lm_head" : "model.embed_tokens";
  const scores = linear(weights, "lm_head", head, hidden);
  const cap = config.final_logit_softcapping;
  const logits = cap ? ops.mul(ops.tanh(ops.mul(scores, 1 / cap)), cap) : scores;
  return { hidden, logits, boundaries, present };
}

const isTied = (config: Config) => config.tie_word_embeddings ?? variantOf(config).tiedByDefault;

function weightSpecs(config: Config): WeightSpec[] {
  const { hidden_size: width, intermediate_size: inner, num_attention_heads: heads } = config;
  const dim = headDim(config);
  const kvWidth = (config.num_key_value_heads ?? heads) * dim;
  const { gemma, postNorms, headNorms, queryBias } = variantOf(config);
  const norm = (name: string, size = width): WeightSpec => ({
    name: `${name}.weight`,
    shape: [size],
    init: gemma ? "zeros" : "ones",
  });
  const bias = queryBias || config.attention_bias === true;
  const block = (path: string): WeightSpec[] => [
    norm(`${path}.input_layernorm`),
    ...linearSpecs(`${path}.self_attn.q_proj`, [width, heads * dim], { bias }),
    ...linearSpecs(`${path}.self_attn.k_proj`, [width, kvWidth], { bias }),
    ...linearSpecs(`${path}.self_attn.v_proj`, [width, kvWidth], { bias }),
    ...linearSpecs(`${path}.self_attn.o_proj`, [heads * dim, width], {
      init: "residual",
      bias: config.attention_bias === true,
    }),
    ...(headNorms ? [norm(`${path}.self_attn.q_norm`, dim), norm(`${path}.self_attn.k_norm`, dim)] : []),
    norm(`${path}.post_attention_layernorm`),
    ...(postNorms
      ? [norm(`${path}.pre_feedforward_layernorm`), norm(`${path}.post_feedforward_layernorm`)]
      : []),
    ...linearSpecs(`${path}.mlp.gate_proj`, [width, inner], { bias: config.mlp_bias === true }),
    ...linearSpecs(`${path}.mlp.up_proj`, [width, inner], { bias: config.mlp_bias === true }),
    ...linearSpecs(`${path}.mlp.down_proj`, [inner, width], {
      init: "residual",
      bias: config.mlp_bias === true,
    }),
  ];
  return [
    { name: "model.embed_tokens.weight", shape: [config.vocab_size, width], init: "normal" },
    ...Array.from({ length: config.num_hidden_layers }, (_, layer) => block(`model.layers.${layer}`)).flat(),
    norm("model.norm"),
    ...(isTied(config) ? [] : linearSpecs("lm_head", [width, config.vocab_size])),
  ];
}

/** Llama and its relatives: Llama 1-3, Mistral, Qwen2, Qwen3, SmolLM, Gemma 1-3 (text). */
export const llama: ArchitectureDefinition<Config> = {
  modelTypes: Object.keys(VARIANTS),
  schema,
  prefix: "model",
  tieable: { output: "lm_head.weight", input: "model.embed_tokens.weight" },
  defaultTargets: ["q_proj", "v_proj"],
  ignored: /rotary_emb\.inv_freq$/,
  layerList: "model.layers",
  withLayers: (config, sources) => ({
    num_hidden_layers: sources.length,
    // Which layers have a window may follow from their number: it is written down.
    ...(config.sliding_window || config.layer_types ? { layer_types: sources.map(typeOf(config)) } : {}),
  }),
  sizes: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads ?? config.num_attention_heads,
    headDim: headDim(config),
    maxPositions: config.max_position_embeddings,
  }),
  tied: isTied,
  weightSpecs,
  build,
};
