import { TunesmithError } from "../../../errors/index.js";
import { constant, type Dim, ops, type Value, withScope } from "../../../graph/index.js";
import { tensor } from "../../../tensor/index.js";
import type { InputSpec, TensorInputs, TensorOutputs } from "../../types.js";
import type { TensorArchitecture } from "../definition.js";
import { activation } from "../parts/layers.js";
import { convLayer, embeddingLayer, flatTokens, groupNormLayer, linearLayer } from "../parts/modules.js";
import { type Params, paramsOf, recordSpecs } from "../parts/params.js";
import { type Conditions, resnetBlock, selfAttention, transformer2d } from "./blocks.js";
import { forBlock, type UnetConfig, unetSchema } from "./config.js";

type Attends = "none" | "self" | "cross";

const KINDS: Readonly<Record<string, Attends>> = {
  DownBlock2D: "none",
  AttnDownBlock2D: "self",
  CrossAttnDownBlock2D: "cross",
  UpBlock2D: "none",
  AttnUpBlock2D: "self",
  CrossAttnUpBlock2D: "cross",
};

function kindOf(type: string): Attends {
  const kind = KINDS[type];
  if (kind) return kind;
  throw new TunesmithError("architecture-unsupported", `diffusion UNet: no block '${type}'`, {
    fix: `supported: ${Object.keys(KINDS).join(", ")}`,
  });
}

/** Sines and cosines of the time step, `[batch, width]`. */
function sinusoids(timestep: Value, width: number, config: UnetConfig): Value {
  const half = Math.floor(width / 2);
  // Rounded where the reference rounds: a time step of 1000 makes a thousand of every last digit.
  const rates = Array.from({ length: half }, (_, at) => {
    const exponent = Math.fround(Math.fround(-Math.log(10000)) * at);
    return Math.exp(Math.fround(exponent / (half - config.freq_shift)));
  });
  const angles = ops.mul(
    ops.unsqueeze(ops.cast(timestep, "float32"), 1),
    constant(tensor("float32", [1, half], rates)),
  );
  const [sines, cosines] = [ops.sin(angles), ops.cos(angles)];
  const waves = ops.concat(config.flip_sin_to_cos ? [cosines, sines] : [sines, cosines], 1);
  return width % 2 === 0 ? waves : ops.pad(waves, [0, 0], [0, 1]);
}

function timeEmbedding(params: Params, config: UnetConfig, values: TensorInputs["values"]): Value {
  const [first] = config.block_out_channels as [number];
  const width = config.time_embedding_dim ?? first * 4;
  const waves = withScope("time_proj", () => sinusoids(values.timestep as Value, first, config));
  const inner = activation(config.act_fn)(linearLayer(params, "time_embedding.linear_1", waves, width));
  const time = linearLayer(params, "time_embedding.linear_2", inner, width);
  if (!config.num_class_embeds) return time;
  const table = [config.num_class_embeds, width] as const;
  return ops.add(time, embeddingLayer(params, "class_embedding", values.class_labels as Value, table));
}

interface Place {
  readonly kind: Attends;
  /** Counted from the outside. */
  readonly block: number;
  /** Default: those of every norm; null without one. */
  readonly groups?: number | null;
  readonly outputScale?: number;
}

/** Attention after a residual block. */
function attention(params: Params, path: string, x: Value, place: Place, conditions: Conditions): Value {
  const { config } = conditions;
  const { kind, block, groups = config.norm_num_groups, outputScale = 1 } = place;
  if (kind === "none") return x;
  const given = config.attention_head_dim;
  // In conditional networks the entry of this name is the number of heads.
  if (kind === "cross") return transformer2d(params, path, x, forBlock(given ?? 8, block), conditions);
  const dim = given === null ? (x.shape[1] as number) : forBlock(given, block);
  return selfAttention(params, path, x, config, { dim, groups, outputScale });
}

/** Runs down to the smallest map; every map on the way is kept for the way up. */
function down(params: Params, given: Value, conditions: Conditions): Value[] {
  const { config } = conditions;
  const maps = [given];
  let x = given;
  for (const [block, type] of config.down_block_types.entries()) {
    const path = `down_blocks.${block}`;
    const out = config.block_out_channels[block] as number;
    for (let at = 0; at < config.layers_per_block; at++) {
      x = resnetBlock(params, `${path}.resnets.${at}`, x, out, conditions);
      x = attention(params, `${path}.attentions.${at}`, x, { kind: kindOf(type), block }, conditions);
      maps.push(x);
    }
    if (block === config.down_block_types.length - 1) continue;
    const padding = config.downsample_padding;
    // Without padding of its own, the convolution sees one more row and column at the end.
    x = convLayer(params, `${path}.downsamplers.0.conv`, x, {
      out,
      kernel: 3,
      stride: 2,
      padding: padding === 0 ? [0, 0, 1, 1] : padding,
    });
    maps.push(x);
  }
  return maps;
}

function middle(params: Params, given: Value, conditions: Conditions): Value {
  const { config } = conditions;
  const type = middleType(config);
  if (type === null) return given;
  const width = given.shape[1] as number;
  const outputScale = config.mid_block_scale_factor;
  const block = config.block_out_channels.length - 1;
  const shifts = config.resnet_time_scale_shift === "default" ? config.norm_num_groups : null;
  const place: Place =
    type === "UNetMidBlock2DCrossAttn"
      ? { kind: "cross", block }
      : { kind: "self", block, groups: config.attn_norm_num_groups ?? shifts, outputScale };
  let x = resnetBlock(params, "mid_block.resnets.0", given, width, conditions, outputScale);
  if (place.kind === "cross" || config.add_attention)
    x = attention(params, "mid_block.attentions.0", x, place, conditions);
  return resnetBlock(params, "mid_block.resnets.1", x, width, conditions, outputScale);
}

/** Of the two classes one has cross-attention there when the config does not say. */
function middleType({ mid_block_type: type, _class_name }: UnetConfig): string | null {
  if (type !== undefined) return type;
  return _class_name === "UNet2DConditionModel" ? "UNetMidBlock2DCrossAttn" : "UNetMidBlock2D";
}

function up(params: Params, given: Value, kept: readonly Value[], conditions: Conditions): Value[] {
  const { config } = conditions;
  const maps = [...kept];
  const states: Value[] = [];
  let x = given;
  const count = config.up_block_types.length;
  for (const [at, type] of config.up_block_types.entries()) {
    const path = `up_blocks.${at}`;
    const block = count - 1 - at;
    const out = config.block_out_channels[block] as number;
    states.push(x);
    for (let layer = 0; layer <= config.layers_per_block; layer++) {
      const joined = ops.concat([x, maps.pop() as Value], 1);
      x = resnetBlock(params, `${path}.resnets.${layer}`, joined, out, conditions);
      x = attention(params, `${path}.attentions.${layer}`, x, { kind: kindOf(type), block }, conditions);
    }
    if (at === count - 1) continue;
    x = upsample(params, `${path}.upsamplers.0`, x, maps.at(-1) as Value);
  }
  return [...states, x];
}

/** To the height and width of the map that comes next, by repeating pixels, and a convolution. */
function upsample(params: Params, path: string, x: Value, like: Value): Value {
  const size = like.shape.slice(2) as [number, number];
  const larger = withScope(path, () => ops.resize(x, size, "nearest"));
  return convLayer(params, `${path}.conv`, larger, { out: x.shape[1] as number, kernel: 3, padding: 1 });
}

function contextOf(states: Value | undefined): Conditions["context"] {
  if (!states) return undefined;
  const [batch, length] = states.shape as [Dim, Dim];
  return { rows: flatTokens(states), batch, length, like: states };
}

function lay(params: Params, config: UnetConfig, { values }: TensorInputs): TensorOutputs {
  const time = timeEmbedding(params, config, values);
  const conditions = { config, time, context: contextOf(values.encoder_hidden_states) };
  const given = values.sample as Value;
  const sample = config.center_input_sample ? ops.sub(ops.mul(given, 2), 1) : given;
  const first = config.block_out_channels[0] as number;
  const entered = convLayer(params, "conv_in", sample, { out: first, kernel: 3, padding: 1 });
  const maps = down(params, entered, conditions);
  const lowest = middle(params, maps.at(-1) as Value, conditions);
  const states = up(params, lowest, maps, conditions);
  const normed = groupNormLayer(params, "conv_norm_out", states.at(-1) as Value, {
    groups: config.norm_num_groups,
    epsilon: config.norm_eps,
  });
  const out = convLayer(params, "conv_out", activation(config.act_fn)(normed), {
    out: config.out_channels,
    kernel: 3,
    padding: 1,
  });
  return { values: { out_sample: out }, boundaries: [] };
}

function describe(config: UnetConfig) {
  const given = config.sample_size ?? 32;
  const [height, width] = typeof given === "number" ? [given, given] : given;
  const shape = ["batch", config.in_channels, height, width];
  const inputs: InputSpec[] = [
    { name: "sample", dtype: "float32", shape },
    { name: "timestep", dtype: "int64", shape: ["batch"], below: 1000 },
  ];
  const crosses = [...config.down_block_types, ...config.up_block_types].some((type) =>
    type.startsWith("CrossAttn"),
  );
  if (crosses || middleType(config) === "UNetMidBlock2DCrossAttn") {
    const states = ["batch", "length", config.cross_attention_dim ?? 1280];
    inputs.push({ name: "encoder_hidden_states", dtype: "float32", shape: states });
  }
  if (config.num_class_embeds)
    inputs.push({ name: "class_labels", dtype: "int64", shape: ["batch"], below: config.num_class_embeds });
  return {
    task: "custom" as const,
    inputs,
    probeAxes: { batch: 1, length: 4 },
    defaultTargets: ["to_q", "to_k", "to_v", "to_out.0"],
  };
}

const OLD_NAMES: Readonly<Record<string, string>> = {
  query: "to_q",
  key: "to_k",
  value: "to_v",
  proj_attn: "to_out.0",
};

/**
 * Denoising networks of diffusers, arXiv 2006.11239 and 2112.10752 (`_class_name: UNet2DModel`, `UNet2DConditionModel`):
 * residual blocks with the time step's embedding, self-attention or transformers with cross-attention. The output is
 * `out_sample`, as ONNX exports call it, since `sample` is an input.
 */
export const unet: TensorArchitecture<UnetConfig> = {
  modelTypes: ["UNet2DModel", "UNet2DConditionModel"],
  schema: unetSchema,
  ignored: /^$/,
  // Files of before diffusers 0.15.
  rename: (name) =>
    name.replace(
      /(\.attentions\.\d+)\.(query|key|value|proj_attn)\./,
      (_, path: string, map: string) => `${path}.${OLD_NAMES[map]}.`,
    ),
  tasks: ["custom"],
  taskOf: () => "custom",
  describe,
  weightSpecs: (config) => recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs)),
  build: (config, weights, inputs) => lay(paramsOf(weights), config, inputs),
};
