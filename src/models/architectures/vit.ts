import { z } from "zod";
import { type Dim, ops, type Value, withScope } from "../../graph/index.js";
import type { Spelling, TensorInputs, TensorModel, TensorOutputs } from "../types.js";
import type { TensorArchitecture, TensorDescription } from "./definition.js";
import { labelsOf, labelsSchema } from "./parts/labels.js";
import { activation } from "./parts/layers.js";
import { convLayer, flatTokens, layerNormLayer, linearLayer, spaceToTokens } from "./parts/modules.js";
import { multiHead, type Tokens } from "./parts/multi-head.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";
import { imageGrid, imageSize, interpolated, placeTable } from "./parts/patches.js";

const schema = z.looseObject({
  ...labelsSchema,
  model_type: z.string(),
  hidden_size: z.number().int().positive().default(768),
  num_hidden_layers: z.number().int().positive().max(1000).default(12),
  num_attention_heads: z.number().int().positive().default(12),
  intermediate_size: z.number().int().positive().default(3072),
  hidden_act: z.string().default("gelu"),
  layer_norm_eps: z.number().default(1e-12),
  image_size: imageSize.default(224),
  patch_size: z.number().int().positive().default(16),
  num_channels: z.number().int().positive().default(3),
  qkv_bias: z.boolean().default(true),
  interpolate_pos_encoding: interpolated,
});
type Config = z.infer<typeof schema>;

const hasTeacher = (config: Config) =>
  config.architectures?.some((name) => name.endsWith("WithTeacher")) ?? false;

/** Class token, DeiT's distillation token, and the patches, with their places: `[batch, length, width]`. */
function embeddings(params: Params, config: Config, pixels: Value): Value {
  const { hidden_size: width, model_type: body } = config;
  const path = `${body}.embeddings`;
  const names = body === "deit" ? ["cls_token", "distillation_token"] : ["cls_token"];
  const grid = imageGrid(config.image_size, config.patch_size);
  const table = params(`${path}.position_embeddings`, [1, names.length + grid[0] * grid[1], width]);
  const first = names.map((name) => params(`${path}.${name}`, [1, 1, width], { init: "zeros" }));
  const patches = convLayer(params, `${path}.patch_embeddings.projection`, pixels, {
    out: width,
    kernel: config.patch_size,
    stride: config.patch_size,
  });
  return withScope(path, () => {
    const batch = pixels.shape[0] as Dim;
    const tokens = first.map((token) => ops.expand(token, [batch, 1, width], [pixels]));
    const found = patches.shape.slice(2) as [number, number];
    const places = placeTable(table, { first: names.length, grid, wanted: found });
    return ops.add(ops.concat([...tokens, spaceToTokens(patches)], 1), places);
  });
}

function block(params: Params, config: Config, tokens: Tokens, path: string): Value {
  const { num_attention_heads: heads, hidden_size: width, qkv_bias: bias } = config;
  const x = tokens.rows;
  const norm = (name: string, value: Value) =>
    layerNormLayer(params, `${path}.${name}`, value, config.layer_norm_eps);
  const names = {
    query: `${path}.attention.attention.query`,
    key: `${path}.attention.attention.key`,
    value: `${path}.attention.attention.value`,
    output: `${path}.attention.output.dense`,
  };
  const normed = { ...tokens, rows: norm("layernorm_before", x) };
  const options = { heads, dim: width / heads, bias, outputBias: true };
  const attended = multiHead(params, names, normed, normed, options).rows;
  const middle = ops.keep(ops.add(x, attended));
  const inner = linearLayer(
    params,
    `${path}.intermediate.dense`,
    norm("layernorm_after", middle),
    config.intermediate_size,
  );
  const activated = withScope(path, () => activation(config.hidden_act)(inner));
  return ops.add(middle, linearLayer(params, `${path}.output.dense`, activated, width));
}

function lay(
  params: Params,
  config: Config,
  { values }: TensorInputs,
  task: TensorModel["task"],
): TensorOutputs {
  const body = config.model_type;
  const embedded = embeddings(params, config, values.pixel_values as Value);
  const [batch, length, width] = embedded.shape as [Dim, number, number];
  let x = flatTokens(embedded);
  const boundaries = [x];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const path = `${body}.encoder.layer.${layer}`;
    const tokens = { rows: x, batch, length, like: embedded };
    x = withScope(path, () => block(params, config, tokens, path));
    boundaries.push(x);
  }
  const normed = layerNormLayer(params, `${body}.layernorm`, x, config.layer_norm_eps);
  const states = ops.reshape(normed, [batch, length, width], [x, embedded]);
  if (task !== "image-classification") return { values: { last_hidden_state: states }, boundaries };
  const token = (at: number) => ops.squeeze(ops.slice(states, 1, at, at + 1), 1);
  const head = (name: string, at: number) =>
    linearLayer(params, name, token(at), labelsOf(config).length, { head: true });
  if (body !== "deit" || !hasTeacher(config))
    return { values: { logits: head("classifier", 0) }, boundaries };
  const both = ops.add(head("cls_classifier", 0), head("distillation_classifier", 1));
  return { values: { logits: ops.div(both, 2) }, boundaries };
}

function describe(config: Config): TensorDescription {
  const [height, width] = imageGrid(config.interpolate_pos_encoding ?? config.image_size, 1);
  return {
    task: "image-classification",
    inputs: [
      { name: "pixel_values", dtype: "float32", shape: ["batch", config.num_channels, height, width] },
    ],
    probeAxes: { batch: 1 },
    defaultTargets: ["query", "value"],
    labels: labelsOf(config),
    spelling,
  };
}

type Renaming = readonly (readonly [RegExp, string])[];
const renamed = (name: string, renaming: Renaming) =>
  renaming.reduce((text, [pattern, replacement]) => text.replace(pattern, replacement), name);

/** Names that transformers 5 has in memory; its files, and everyone's, keep those of transformers 4. */
const TO_FILE: Renaming = [
  [/^(vit|deit)\.layers\./, "$1.encoder.layer."],
  [/\.attention\.q_proj\b/, ".attention.attention.query"],
  [/\.attention\.k_proj\b/, ".attention.attention.key"],
  [/\.attention\.v_proj\b/, ".attention.attention.value"],
  [/\.attention\.o_proj\b/, ".attention.output.dense"],
  [/\.mlp\.fc1\b/, ".intermediate.dense"],
  [/\.mlp\.fc2\b/, ".output.dense"],
];
const TO_MEMORY: Renaming = [
  [/^(vit|deit)\.encoder\.layer\./, "$1.layers."],
  [/\.attention\.attention\.query\b/, ".attention.q_proj"],
  [/\.attention\.attention\.key\b/, ".attention.k_proj"],
  [/\.attention\.attention\.value\b/, ".attention.v_proj"],
  [/\.attention\.output\.dense\b/, ".attention.o_proj"],
  [/\.intermediate\.dense\b/, ".mlp.fc1"],
  [/\.output\.dense\b/, ".mlp.fc2"],
];
const spelling: Spelling = {
  memory: (name) => renamed(name, TO_MEMORY),
  file: (name) => renamed(name, TO_FILE),
};

/** Vision transformers, arXiv 2010.11929, and DeiT, arXiv 2012.12877 (`model_type: vit`, `deit`). */
export const vit: TensorArchitecture<Config> = {
  modelTypes: ["vit", "deit"],
  schema,
  ignored: /\.embeddings\.mask_token$|\.pooler\.dense\.|^(cls_|distillation_)?classifier\./,
  tasks: ["image-classification", "embedding"],
  taskOf: (_, weights) =>
    [...weights.keys()].some((name) => /^(cls_)?classifier\.weight$/.test(name))
      ? "image-classification"
      : "embedding",
  describe: (config, task) => ({ ...describe(config), task }),
  rename: (name, { model_type: body }) =>
    spelling.file(/^(embeddings|encoder|layers|layernorm|pooler)\./.test(name) ? `${body}.${name}` : name),
  className: (config, task) => {
    const kind = task === "embedding" ? "Model" : "ForImageClassification";
    if (config.model_type === "vit") return `ViT${kind}`;
    return `DeiT${kind}${task !== "embedding" && hasTeacher(config) ? "WithTeacher" : ""}`;
  },
  weightSpecs: (config, task) =>
    recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs, task)),
  build: (config, weights, inputs, task) => lay(paramsOf(weights), config, inputs, task),
};
