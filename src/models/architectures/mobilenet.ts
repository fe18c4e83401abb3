import { z } from "zod";
import { type Dim, ops, type Value, withScope } from "../../graph/index.js";
import type { TensorInputs, TensorModel, TensorOutputs } from "../types.js";
import type { TensorArchitecture } from "./definition.js";
import { labelsOf, labelsSchema } from "./parts/labels.js";
import { activation } from "./parts/layers.js";
import { batchNormLayer, convLayer, globalMean, linearLayer } from "./parts/modules.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";

const size = z.number().int().positive();

const schema = z.looseObject({
  ...labelsSchema,
  num_channels: size.default(3),
  image_size: size.max(65_536).default(224),
  depth_multiplier: z.number().positive().max(16).default(1),
  depth_divisible_by: size.default(8),
  min_depth: size.default(8),
  expand_ratio: z.number().positive().max(64).default(6),
  output_stride: size.default(32),
  first_layer_is_expansion: z.boolean().default(true),
  finegrained_output: z.boolean().default(true),
  hidden_act: z.string().default("relu6"),
  tf_padding: z.boolean().default(true),
  layer_norm_eps: z.number().default(0.001),
});
type Config = z.infer<typeof schema>;

/** Of the 17 outputs and 16 blocks at full width. */
const WIDTHS = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320];
const STRIDES = [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];

/** The nearest multiple, not more than a tenth below. */
function divisible(value: number, { depth_divisible_by: by, min_depth: least }: Config): number {
  const rounded = Math.max(least, Math.floor((value + by / 2) / by) * by);
  return rounded < 0.9 * value ? rounded + by : rounded;
}
const scaled = (config: Config, width: number) =>
  divisible(Math.round(width * config.depth_multiplier), config);

interface Step {
  readonly out: number;
  readonly kernel: number;
  readonly stride?: number;
  readonly groups?: number;
  readonly dilation?: number;
  readonly active?: boolean;
}

/** Padding as TensorFlow's SAME lays it: what does not divide evenly goes to the end. */
function samePadding(x: Value, { kernel, stride = 1, dilation = 1 }: Step): [number, number, number, number] {
  const along = (dim: Dim): [number, number] => {
    const rest = Number(dim) % stride;
    const total = Math.max(kernel - (rest === 0 ? stride : rest), 0);
    const before = Math.floor(total / 2);
    return [before * dilation, (total - before) * dilation];
  };
  const [top, bottom] = along(x.shape[2] as Dim);
  const [left, right] = along(x.shape[3] as Dim);
  return [top, left, bottom, right];
}

function convNorm(params: Params, config: Config, path: string, x: Value, step: Step): Value {
  const { out, kernel, stride, groups, dilation = 1, active = true } = step;
  const padding = config.tf_padding ? samePadding(x, step) : Math.floor((kernel - 1) / 2) * dilation;
  const options = { out, kernel, stride, padding, groups, dilation, bias: false };
  const y = convLayer(params, `${path}.convolution`, x, options);
  const normed = batchNormLayer(params, `${path}.normalization`, y, {
    epsilon: config.layer_norm_eps,
    momentum: 0.997,
  });
  return active ? withScope(path, () => activation(config.hidden_act)(normed)) : normed;
}

function stem(params: Params, config: Config, pixels: Value): Value {
  const path = "mobilenet_v2.conv_stem";
  const wide = scaled(config, 32);
  let x = convNorm(params, config, `${path}.first_conv`, pixels, { out: wide, kernel: 3, stride: 2 });
  if (!config.first_layer_is_expansion)
    x = convNorm(params, config, `${path}.expand_1x1`, x, { out: wide, kernel: 1 });
  x = convNorm(params, config, `${path}.conv_3x3`, x, { out: wide, kernel: 3, groups: wide });
  const out = scaled(config, WIDTHS[0] as number);
  return convNorm(params, config, `${path}.reduce_1x1`, x, { out, kernel: 1, active: false });
}

/** A wide depthwise convolution between two narrow ends. */
function block(params: Params, config: Config, at: number, x: Value, step: Omit<Step, "kernel">): Value {
  const path = `mobilenet_v2.layer.${at}`;
  const { out, stride = 1, dilation = 1 } = step;
  const narrow = x.shape[1] as number;
  const wide = divisible(Math.round(narrow * config.expand_ratio), config);
  const expanded = convNorm(params, config, `${path}.expand_1x1`, x, { out: wide, kernel: 1 });
  const mixed = convNorm(params, config, `${path}.conv_3x3`, expanded, {
    out: wide,
    kernel: 3,
    stride,
    dilation,
    groups: wide,
  });
  const y = convNorm(params, config, `${path}.reduce_1x1`, mixed, { out, kernel: 1, active: false });
  return stride === 1 && narrow === out ? withScope(path, () => ops.add(x, y)) : y;
}

function lay(
  params: Params,
  config: Config,
  { values }: TensorInputs,
  task: TensorModel["task"],
): TensorOutputs {
  let x = stem(params, config, values.pixel_values as Value);
  const boundaries = [x];
  let [reached, dilation] = [2, 1];
  for (const [at, wanted] of STRIDES.entries()) {
    // Once the map is small enough, windows are spread instead of moved further.
    const full = reached === config.output_stride;
    const out = scaled(config, WIDTHS[at + 1] as number);
    x = block(
      params,
      config,
      at,
      x,
      full ? { out, stride: 1, dilation } : { out, stride: wanted, dilation: 1 },
    );
    if (full) dilation *= wanted;
    else reached *= wanted;
    boundaries.push(x);
  }
  const last = config.finegrained_output && config.depth_multiplier < 1 ? 1280 : scaled(config, 1280);
  const top = convNorm(params, config, "mobilenet_v2.conv_1x1", x, { out: last, kernel: 1 });
  const pooled = withScope("mobilenet_v2.pooler", () => globalMean(top));
  if (task !== "image-classification")
    return { values: { last_hidden_state: top, pooler_output: pooled }, boundaries };
  const logits = linearLayer(params, "classifier", pooled, labelsOf(config).length, { head: true });
  return { values: { logits }, boundaries };
}

const describe = (config: Config, task: TensorModel["task"]) => ({
  task,
  inputs: [
    {
      name: "pixel_values",
      dtype: "float32" as const,
      shape: ["batch", config.num_channels, config.image_size, config.image_size],
    },
  ],
  probeAxes: { batch: 1 },
  defaultTargets: ["convolution"],
  labels: labelsOf(config),
});

/** MobileNetV2, arXiv 1801.04381, as transformers names it (`model_type: mobilenet_v2`). */
export const mobilenet: TensorArchitecture<Config> = {
  modelTypes: ["mobilenet_v2"],
  schema,
  ignored: /\.num_batches_tracked$|^classifier\./,
  tasks: ["image-classification", "embedding"],
  taskOf: (_, weights) => (weights.has("classifier.weight") ? "image-classification" : "embedding"),
  describe,
  rename: (name) => (/^(conv_stem|layer|conv_1x1)\./.test(name) ? `mobilenet_v2.${name}` : name),
  className: (_, task) => `MobileNetV2${task === "embedding" ? "Model" : "ForImageClassification"}`,
  weightSpecs: (config, task) =>
    recordSpecs(describe(config, task), (params, inputs) => lay(params, config, inputs, task)),
  build: (config, weights, inputs, task) => lay(paramsOf(weights), config, inputs, task),
};
