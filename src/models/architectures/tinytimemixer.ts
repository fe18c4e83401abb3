import { z } from "zod";
import { constant, type Dim, dimProduct, ops, type Value, withScope } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import type { InputSpec, TensorInputs, TensorOutputs } from "../types.js";
import type { TensorArchitecture } from "./definition.js";
import { embeddingLayer, layerNormLayer, linearLayer } from "./parts/modules.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";

const size = z.number().int().positive().max(1_000_000);
const mode = z.enum(["common_channel", "mix_channel"]);
/** Parts of later releases that are not laid here. */
const off = z.union([z.literal(false), z.literal(0), z.null()]).optional();

const schema = z
  .looseObject({
    context_length: size.default(64),
    patch_length: size.default(8),
    patch_stride: size.default(8),
    num_input_channels: size.default(1),
    prediction_length: size.default(16),
    prediction_filter_length: size.nullish(),
    prediction_channel_indices: z.array(z.number().int().nonnegative()).nullish(),
    d_model: size.default(16),
    expansion_factor: size.default(2),
    num_layers: size.max(1000).default(3),
    mode: mode.default("common_channel"),
    gated_attn: z.boolean().default(true),
    norm_mlp: z.literal("LayerNorm").default("LayerNorm"),
    norm_eps: z.number().default(1e-5),
    adaptive_patching_levels: z.number().int().nonnegative().max(20).default(0),
    scaling: z.union([z.literal("std"), z.boolean(), z.null()]).default("std"),
    use_positional_encoding: z.boolean().default(false),
    resolution_prefix_tuning: z.boolean().default(false),
    frequency_token_vocab_size: size.default(5),
    use_decoder: z.boolean().default(true),
    decoder_num_layers: size.max(1000).default(8),
    decoder_d_model: size.default(8),
    decoder_adaptive_patching_levels: z.number().int().nonnegative().max(20).default(0),
    decoder_raw_residual: z.boolean().default(false),
    decoder_mode: mode.default("common_channel"),
    self_attn: off,
    enable_forecast_channel_mixing: off,
    categorical_vocab_size_list: off,
    register_tokens: off,
    fft_length: off,
    multi_scale: off,
    enable_base_norm_always: off,
    multi_quantile_head: off,
    masked_context_length: off,
    gate_mode: z.literal("softmax").optional(),
  })
  .refine(({ patch_length, patch_stride }) => patch_length === patch_stride, {
    message: "patches that overlap are not supported",
    path: ["patch_stride"],
  });
type Config = z.output<typeof schema>;

/** What a stack of mixer layers needs to know. Hidden states are `[batch, channels, patches, width]`. */
interface Stack {
  readonly path: string;
  readonly layers: number;
  readonly levels: number;
  readonly mode: Config["mode"];
}

/** The linear map at `name` over the last axis, whatever comes before it. */
function mapLast(params: Params, name: string, x: Value, out: number): Value {
  const before = x.shape.slice(0, -1);
  const flat = ops.reshape(x, [dimProduct(before), x.shape.at(-1) as Dim], [x]);
  return ops.reshape(linearLayer(params, name, flat, out), [...before, out], [x]);
}

function mlp(params: Params, config: Config, path: string, x: Value): Value {
  const width = x.shape.at(-1) as number;
  const inner = mapLast(params, `${path}.mlp.fc1`, x, width * config.expansion_factor);
  return mapLast(params, `${path}.mlp.fc2`, ops.gelu(inner), width);
}

/** x times a softmax of a linear map of itself. */
const gate = (params: Params, config: Config, path: string, x: Value): Value =>
  config.gated_attn
    ? ops.mul(x, ops.softmax(mapLast(params, `${path}.gating_block.attn_layer`, x, x.shape.at(-1) as number)))
    : x;

/** Mixes along one axis: `turn` brings it last and back. Channels are gated before their map, the others after it. */
function mix(
  params: Params,
  config: Config,
  path: string,
  x: Value,
  turn: readonly number[],
  gateFirst = false,
): Value {
  return withScope(path, () => {
    const normed = ops.transpose(layerNormLayer(params, `${path}.norm.norm`, x, config.norm_eps), turn);
    const mixed = gateFirst
      ? mlp(params, config, path, gate(params, config, path, normed))
      : gate(params, config, path, mlp(params, config, path, normed));
    return ops.add(x, ops.transpose(mixed, turn));
  });
}

function mixerLayer(params: Params, config: Config, stack: Stack, path: string, given: Value): Value {
  let x = given;
  if (stack.mode === "mix_channel")
    x = mix(params, config, `${path}.channel_feature_mixer`, x, [0, 3, 2, 1], true);
  if (x.shape[2] !== 1) x = mix(params, config, `${path}.patch_mixer`, x, [0, 1, 3, 2]);
  return mix(params, config, `${path}.feature_mixer`, x, [0, 1, 2, 3]);
}

/** Mixer layers; with adaptive patching at finer resolutions first, patches of a half, a quarter, ... of the width. */
function mixers(params: Params, config: Config, stack: Stack, given: Value, boundaries: Value[]): Value {
  let x = given;
  const run = (path: string) => {
    for (let layer = 0; layer < stack.layers; layer++) {
      boundaries.push(x);
      x = mixerLayer(params, config, stack, `${path}.${layer}`, x);
    }
  };
  if (stack.levels === 0) run(`${stack.path}.mixers`);
  for (let at = 0; at < stack.levels; at++) {
    const [batch, channels, patches, width] = x.shape as [Dim, Dim, number, number];
    const wanted = 2 ** (stack.levels - 1 - at);
    const factor = Math.floor(width / wanted) <= 4 ? 1 : wanted;
    x = ops.reshape(x, [batch, channels, patches * factor, width / factor], [x]);
    run(`${stack.path}.mixers.${at}.mixer_layers`);
    x = ops.reshape(x, [batch, channels, patches, width], [x]);
  }
  return x;
}

interface Scaled {
  readonly values: Value;
  readonly loc: Value;
  readonly scale: Value;
}

/** Each window and channel less its mean, over its standard deviation, of what was observed. */
function standardised(config: Config, x: Value, observed: Value): Scaled {
  if (config.scaling !== "std" && config.scaling !== true)
    return { values: x, loc: ops.scalar(0), scale: ops.scalar(1) };
  const count = ops.clip(ops.reduceSum(observed, [1]), 1);
  const mean = (value: Value) => ops.div(ops.reduceSum(ops.mul(value, observed), [1]), count);
  const loc = mean(x);
  const centred = ops.sub(x, loc);
  const scale = ops.sqrt(
    ops.add(ops.div(ops.reduceSum(ops.square(ops.mul(centred, observed)), [1]), count), 1e-5),
  );
  return { values: ops.div(centred, scale), loc, scale };
}

/** `[batch, time, channels]` to `[batch, channels, patches, patch_length]`; what is too much goes at the oldest end. */
function patched(config: Config, x: Value): Value {
  const patches = Math.floor(config.context_length / config.patch_length);
  const recent = ops.slice(x, 1, config.context_length - patches * config.patch_length);
  const [batch, , channels] = x.shape as [Dim, Dim, Dim];
  const grouped = ops.reshape(recent, [batch, patches, config.patch_length, channels], [x]);
  return ops.transpose(grouped, [0, 3, 1, 2]);
}

function encoder(params: Params, config: Config, patches: Value, frequency: Value | undefined): Value {
  const path = "backbone.encoder";
  const width = config.d_model;
  let x = mapLast(params, `${path}.patcher`, patches, width);
  if (frequency) {
    const table = [config.frequency_token_vocab_size, config.patch_length] as const;
    const rows = embeddingLayer(params, `${path}.freq_mod.0`, frequency, table);
    const middle = Math.floor((config.patch_length + width) / 2);
    const inner = ops.gelu(linearLayer(params, `${path}.freq_mod.1`, rows, middle));
    const token = ops.unsqueeze(linearLayer(params, `${path}.freq_mod.3`, inner, width), 1, 2);
    const [batch, channels] = x.shape as [Dim, Dim];
    x = ops.concat([ops.expand(token, [batch, channels, 1, width], [x]), x], 2);
  }
  if (!config.use_positional_encoding) return x;
  const places = [x.shape[2] as number, width];
  return ops.add(x, params(`${path}.positional_encoder.position_enc`, places));
}

function decoder(params: Params, config: Config, given: Value, patches: Value, boundaries: Value[]): Value {
  if (!config.use_decoder) return given;
  const width = config.decoder_d_model;
  let x = config.d_model === width ? given : mapLast(params, "decoder.adapter", given, width);
  if (config.decoder_raw_residual) {
    const before = Number(x.shape[2]) - Number(patches.shape[2]);
    const raw = before === 0 ? patches : ops.pad(patches, [0, 0, before, 0], [0, 0, 0, 0]);
    x = ops.add(x, mapLast(params, "decoder.decoder_raw_embedding", raw, width));
  }
  const stack = {
    path: "decoder.decoder_block",
    layers: config.decoder_num_layers,
    levels: config.decoder_adaptive_patching_levels,
    mode: config.decoder_mode,
  };
  return mixers(params, config, stack, x, boundaries);
}

/** The forecast of each channel from all its patches, `[batch, steps, channels]`. */
function forecast(params: Params, config: Config, x: Value, { loc, scale }: Scaled): Value {
  const [batch, channels, patches, width] = x.shape as [Dim, Dim, number, number];
  const flat = ops.reshape(x, [batch, channels, patches * width], [x]);
  const steps = mapLast(params, "head.base_forecast_block", flat, config.prediction_length);
  const chosen =
    config.prediction_channel_indices && [...config.prediction_channel_indices].sort((a, b) => a - b);
  const pick = (value: Value) =>
    chosen && value.shape.length === 3
      ? ops.gather(value, constant(tensor("int64", [chosen.length], chosen)), 2)
      : value;
  let y = pick(ops.transpose(steps, [0, 2, 1]));
  const kept = config.prediction_filter_length;
  if (kept) y = ops.slice(y, 1, 0, kept);
  return ops.add(ops.mul(y, pick(scale)), pick(loc));
}

function lay(params: Params, config: Config, { values }: TensorInputs): TensorOutputs {
  const boundaries: Value[] = [];
  const scaled = withScope("backbone.scaler", () =>
    standardised(config, values.past_values as Value, values.past_observed_mask as Value),
  );
  const patches = withScope("backbone.patching", () => patched(config, scaled.values));
  const embedded = encoder(params, config, patches, values.freq_token);
  const stack = {
    path: "backbone.encoder.mlp_mixer_encoder",
    layers: config.num_layers,
    levels: config.adaptive_patching_levels,
    mode: config.mode,
  };
  const encoded = mixers(params, config, stack, embedded, boundaries);
  const decoded = decoder(params, config, encoded, patches, boundaries);
  boundaries.push(decoded);
  const y = withScope("head", () => forecast(params, config, decoded, scaled));
  return { values: { prediction_outputs: y }, boundaries };
}

function describe(config: Config) {
  const mixes = config.mode === "mix_channel" || config.decoder_mode === "mix_channel";
  const channels = mixes || config.prediction_channel_indices ? config.num_input_channels : "channels";
  const shape = ["batch", config.context_length, channels];
  const inputs: InputSpec[] = [
    { name: "past_values", dtype: "float32", shape },
    { name: "past_observed_mask", dtype: "float32", shape, fill: 1 },
  ];
  if (config.resolution_prefix_tuning)
    inputs.push({
      name: "freq_token",
      dtype: "int64",
      shape: ["batch"],
      below: config.frequency_token_vocab_size,
    });
  return {
    task: "forecasting" as const,
    inputs,
    probeAxes: { batch: 1, channels: config.num_input_channels },
    defaultTargets: ["fc1", "fc2", "attn_layer"],
  };
}

/** TinyTimeMixer, arXiv 2401.03955 (`model_type: tinytimemixer`): forecasts of several series at once. */
export const tinyTimeMixer: TensorArchitecture<Config> = {
  modelTypes: ["tinytimemixer"],
  schema,
  ignored: /^$/,
  tasks: ["forecasting"],
  taskOf: () => "forecasting",
  describe,
  className: () => "TinyTimeMixerForPrediction",
  weightSpecs: (config) => recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs)),
  build: (config, weights, inputs) => lay(paramsOf(weights), config, inputs),
};
