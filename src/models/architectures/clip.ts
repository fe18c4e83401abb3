import { z } from "zod";
import { type Dim, ops, type Value, withScope } from "../../graph/index.js";
import type { InputSpec, TensorInputs, TensorModel, TensorOutputs } from "../types.js";
import type { TensorArchitecture } from "./definition.js";
import { maskBuilder, paddingMask } from "./parts/attention.js";
import { activation } from "./parts/layers.js";
import {
  convLayer,
  embeddingLayer,
  flatTokens,
  layerNormLayer,
  linearLayer,
  spaceToTokens,
} from "./parts/modules.js";
import { multiHead, type Tokens } from "./parts/multi-head.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";
import { imageGrid, imageSize, interpolated, placeTable } from "./parts/patches.js";
import { rowPositions } from "./parts/positions.js";

const tower = {
  hidden_size: z.number().int().positive(),
  intermediate_size: z.number().int().positive(),
  num_hidden_layers: z.number().int().positive().max(1000).default(12),
  num_attention_heads: z.number().int().positive(),
  hidden_act: z.string().default("quick_gelu"),
  layer_norm_eps: z.number().default(1e-5),
};
const textSchema = z.looseObject({
  ...tower,
  hidden_size: tower.hidden_size.default(512),
  intermediate_size: tower.intermediate_size.default(2048),
  num_attention_heads: tower.num_attention_heads.default(8),
  vocab_size: z.number().int().positive().default(49408),
  max_position_embeddings: z.number().int().positive().default(77),
  eos_token_id: z.union([z.number().int(), z.array(z.number().int())]).nullish(),
});
const visionSchema = z.looseObject({
  ...tower,
  hidden_size: tower.hidden_size.default(768),
  intermediate_size: tower.intermediate_size.default(3072),
  num_attention_heads: tower.num_attention_heads.default(12),
  image_size: imageSize.default(224),
  patch_size: z.number().int().positive().default(32),
  num_channels: z.number().int().positive().default(3),
  interpolate_pos_encoding: interpolated,
});
type TextConfig = z.infer<typeof textSchema>;
type VisionConfig = z.infer<typeof visionSchema>;

const schema = z.looseObject({
  model_type: z.string(),
  architectures: z.array(z.string()).nullish(),
  projection_dim: z.number().int().positive().default(512),
  text_config: textSchema.optional(),
  vision_config: visionSchema.optional(),
});
type Config = z.infer<typeof schema>;

/** The config of one tower has its entries where the pair's has two objects. */
function paired(given: unknown): unknown {
  if (typeof given !== "object" || given === null) return given;
  const config = given as Record<string, unknown>;
  const { architectures, projection_dim } = config;
  const rest = { architectures, projection_dim, model_type: config.model_type };
  if (config.model_type === "clip_text_model") return { ...rest, text_config: config };
  if (config.model_type === "clip_vision_model") return { ...rest, vision_config: config };
  return { ...config, text_config: config.text_config ?? {}, vision_config: config.vision_config ?? {} };
}

/** A tower by itself has a projection when its class says so. */
const isProjected = ({ model_type, architectures }: Config) =>
  model_type === "clip" || (architectures?.some((name) => name.endsWith("WithProjection")) ?? false);

type TowerConfig = TextConfig | VisionConfig;

/** Blocks with norms before attention and MLP. */
function encoder(params: Params, config: TowerConfig, tokens: Tokens, path: string, mask?: Value): Value[] {
  const states = [tokens.rows];
  const heads = config.num_attention_heads;
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `${path}.encoder.layers.${layer}`;
    const x = states.at(-1) as Value;
    const norm = (name: string, value: Value) =>
      layerNormLayer(params, `${at}.${name}`, value, config.layer_norm_eps);
    const names = {
      query: `${at}.self_attn.q_proj`,
      key: `${at}.self_attn.k_proj`,
      value: `${at}.self_attn.v_proj`,
      output: `${at}.self_attn.out_proj`,
    };
    const next = withScope(at, () => {
      const normed = { ...tokens, rows: norm("layer_norm1", x) };
      const options = { heads, dim: config.hidden_size / heads, mask };
      const attended = multiHead(params, names, normed, normed, options).rows;
      const middle = ops.keep(ops.add(x, attended));
      const inner = linearLayer(
        params,
        `${at}.mlp.fc1`,
        norm("layer_norm2", middle),
        config.intermediate_size,
      );
      const activated = withScope(`${at}.mlp`, () => activation(config.hidden_act)(inner));
      return ops.add(middle, linearLayer(params, `${at}.mlp.fc2`, activated, config.hidden_size));
    });
    states.push(next);
  }
  return states;
}

/** What a tower gives: its last states, one vector per example, and where blocks begin. */
interface TowerOutputs {
  readonly last: Value;
  readonly pooled: Value;
  readonly boundaries: readonly Value[];
}

function visionTower(params: Params, config: VisionConfig, pixels: Value): TowerOutputs {
  const { hidden_size: width, patch_size: patch } = config;
  const path = "vision_model";
  const grid = imageGrid(config.image_size, patch);
  const token = params(`${path}.embeddings.class_embedding`, [width]);
  const table = params(`${path}.embeddings.position_embedding.weight`, [1 + grid[0] * grid[1], width]);
  const patches = convLayer(params, `${path}.embeddings.patch_embedding`, pixels, {
    out: width,
    kernel: patch,
    stride: patch,
    bias: false,
  });
  const embedded = withScope(`${path}.embeddings`, () => {
    const first = ops.expand(ops.reshape(token, [1, 1, width]), [pixels.shape[0] as Dim, 1, width], [pixels]);
    const wanted = patches.shape.slice(2) as [number, number];
    const places = placeTable(ops.unsqueeze(table, 0), { first: 1, grid, wanted });
    return ops.add(ops.concat([first, spaceToTokens(patches)], 1), places);
  });
  const [batch, length] = embedded.shape as [Dim, number];
  // The reference's name for it is misspelt.
  const normed = layerNormLayer(params, `${path}.pre_layrnorm`, flatTokens(embedded), config.layer_norm_eps);
  const boundaries = encoder(params, config, { rows: normed, batch, length, like: embedded }, path);
  const last = ops.reshape(boundaries.at(-1) as Value, [batch, length, width], [embedded]);
  const first = ops.squeeze(ops.slice(last, 1, 0, 1), 1);
  const pooled = layerNormLayer(params, `${path}.post_layernorm`, first, config.layer_norm_eps);
  return { last, pooled, boundaries };
}

function textTower(params: Params, config: TextConfig, ids: Value, seen: Value): TowerOutputs {
  const { hidden_size: width } = config;
  const path = "text_model";
  const [batch, length] = ids.shape as [Dim, Dim];
  const at = `${path}.embeddings`;
  const words = embeddingLayer(params, `${at}.token_embedding`, ids, [config.vocab_size, width]);
  const places = withScope(at, () => rowPositions(ids));
  const table: readonly [number, number] = [config.max_position_embeddings, width];
  const placed = embeddingLayer(params, `${at}.position_embedding`, places, table);
  const embedded = withScope(at, () => flatTokens(ops.add(words, placed)));
  const mask = withScope(path, () => ops.add(maskBuilder({ positions: places })(), paddingMask(seen)));
  const boundaries = encoder(params, config, { rows: embedded, batch, length, like: ids }, path, mask);
  const normed = layerNormLayer(
    params,
    `${path}.final_layer_norm`,
    boundaries.at(-1) as Value,
    config.layer_norm_eps,
  );
  const last = withScope(path, () => ops.reshape(normed, [batch, length, width], [ids]));
  const pooled = withScope(path, () => atEnd(last, ids, config.eos_token_id));
  return { last, pooled, boundaries };
}

/** The state at the end of each text: the first end token, or the largest id where config.json has the old end id 2. */
function atEnd(states: Value, ids: Value, end: TextConfig["eos_token_id"]): Value {
  const [batch, , width] = states.shape as [Dim, Dim, number];
  const ends = [end ?? 2].flat();
  const marks =
    ends.length === 1 && ends[0] === 2
      ? ids
      : ops.cast(ends.map((id) => ops.equal(ids, id)).reduce(ops.or), "int64");
  const place = ops.unsqueeze(ops.argMax(marks, 1), 2);
  return ops.squeeze(ops.gatherElements(states, ops.expand(place, [batch, 1, width], [ids]), 1), 1);
}

const normalised = (x: Value): Value => ops.div(x, ops.reduceL2(x, [1]));

function lay(params: Params, config: Config, { values }: TensorInputs): TensorOutputs {
  const { text_config: text, vision_config: vision, projection_dim: size } = config;
  const image = vision && visionTower(params, vision, values.pixel_values as Value);
  const words = text && textTower(params, text, values.input_ids as Value, values.attention_mask as Value);
  const project = (name: string, pooled: Value) => linearLayer(params, name, pooled, size, { bias: false });
  if (!isProjected(config)) {
    const { last, pooled, boundaries } = (image ?? words) as TowerOutputs;
    return { values: { last_hidden_state: last, pooler_output: pooled }, boundaries };
  }
  const imageEmbeds = image && project("visual_projection", image.pooled);
  const textEmbeds = words && project("text_projection", words.pooled);
  if (!imageEmbeds || !textEmbeds) {
    const { last, boundaries } = (image ?? words) as TowerOutputs;
    const values: Record<string, Value> = imageEmbeds
      ? { image_embeds: imageEmbeds }
      : { text_embeds: textEmbeds as Value };
    return { values: { ...values, last_hidden_state: last }, boundaries };
  }
  const [images, texts] = [normalised(imageEmbeds), normalised(textEmbeds)];
  const scale = ops.exp(params("logit_scale", []));
  const perImage = ops.mul(ops.gemm(images, texts, undefined, { transB: true }), scale);
  return {
    values: {
      logits_per_image: perImage,
      logits_per_text: ops.transpose(perImage, [1, 0]),
      image_embeds: images,
      text_embeds: texts,
    },
    boundaries: [],
  };
}

function describe({ text_config: text, vision_config: vision }: Config) {
  const inputs: InputSpec[] = [];
  if (text) {
    const shape = ["texts", "length"];
    inputs.push({ name: "input_ids", dtype: "int64", shape, below: text.vocab_size });
    inputs.push({ name: "attention_mask", dtype: "int64", shape, fill: 1 });
  }
  if (vision) {
    const [height, width] = imageGrid(vision.interpolate_pos_encoding ?? vision.image_size, 1);
    const shape = ["images", vision.num_channels, height, width];
    inputs.push({ name: "pixel_values", dtype: "float32", shape });
  }
  return {
    task: "embedding" as TensorModel["task"],
    inputs,
    probeAxes: { texts: 1, images: 1, length: Math.min(8, text?.max_position_embeddings ?? 8) },
    defaultTargets: ["q_proj", "v_proj"],
  };
}

const part = (kind: "text" | "vision", projection: string) => ({
  config: (config: Readonly<Record<string, unknown>>) => ({
    ...(config[`${kind}_config`] as object | undefined),
    model_type: `clip_${kind}_model`,
    projection_dim: config.projection_dim ?? 512,
    architectures: [`CLIP${kind === "text" ? "Text" : "Vision"}ModelWithProjection`],
  }),
  keeps: (name: string) => name.startsWith(`${kind}_model.`) || name.startsWith(projection),
});

/**
 * CLIP, arXiv 2103.00020: both towers (`model_type: clip`), or one of them (`clip_text_model`, `clip_vision_model`, or
 * `part: "text"` and `"vision"` of the pair), with its projection where the checkpoint has one.
 */
export const clip: TensorArchitecture<Config> = {
  modelTypes: ["clip", "clip_text_model", "clip_vision_model"],
  schema: z.preprocess(paired, schema),
  ignored: /\.position_ids$/,
  tasks: ["embedding"],
  taskOf: () => "embedding",
  describe,
  parts: { text: part("text", "text_projection."), vision: part("vision", "visual_projection.") },
  // A tower has one class with its projection and one without.
  className: ({ architectures }) => architectures?.[0] ?? "CLIPModel",
  weightSpecs: (config) => recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs)),
  build: (config, weights, inputs) => lay(paramsOf(weights), config, inputs),
};
