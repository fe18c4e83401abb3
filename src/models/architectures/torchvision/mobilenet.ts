import { z } from "zod";
import { ops, type Value, withScope } from "../../../graph/index.js";
import type { TensorInputs, TensorOutputs, Weights } from "../../types.js";
import type { TensorArchitecture } from "../definition.js";
import { labelsOf, labelsSchema } from "../parts/labels.js";
import { batchNormLayer, convLayer, globalMean, linearLayer } from "../parts/modules.js";
import { type Params, paramsOf, recordSpecs } from "../parts/params.js";
import { imageInput } from "./images.js";

const size = z.number().int().positive();

const schema = z.looseObject({
  ...labelsSchema,
  model_type: z.literal("torchvision_mobilenet_v2"),
  num_channels: size.default(3),
  stem_width: size.default(32),
  /** Step of the first convolution. */
  stem_stride: size.max(8).default(2),
  /** One entry per block: channels inside, channels that leave, and the step of the depthwise convolution. */
  blocks: z
    .array(z.object({ inner: size, out: size, stride: size.max(8) }))
    .min(1)
    .max(1000),
  last_width: size.default(1280),
});
/** A MobileNetV2 whose tensors are named as torchvision's. */
export type TorchvisionMobilenetConfig = z.input<typeof schema>;
type Config = z.output<typeof schema>;

interface Step {
  readonly out: number;
  readonly kernel: number;
  readonly stride?: number;
  readonly groups?: number;
}

/** Convolution, norm, ReLU6, as modules 0, 1 and 2 of `path`. */
function convNormActive(params: Params, path: string, x: Value, { kernel, ...step }: Step): Value {
  const options = { ...step, kernel, padding: Math.floor((kernel - 1) / 2), bias: false };
  const normed = batchNormLayer(params, `${path}.1`, convLayer(params, `${path}.0`, x, options));
  return withScope(path, () => ops.clip(normed, 0, 6));
}

function block(params: Params, path: string, x: Value, spec: Config["blocks"][number]): Value {
  const { inner, out, stride } = spec;
  const narrow = x.shape[1] as number;
  let [y, at] = [x, 0];
  if (inner !== narrow) y = convNormActive(params, `${path}.conv.${at++}`, y, { out: inner, kernel: 1 });
  y = convNormActive(params, `${path}.conv.${at++}`, y, { out: inner, kernel: 3, stride, groups: inner });
  y = convLayer(params, `${path}.conv.${at++}`, y, { out, kernel: 1, bias: false });
  y = batchNormLayer(params, `${path}.conv.${at}`, y);
  return stride === 1 && narrow === out ? withScope(path, () => ops.add(x, y)) : y;
}

function lay(params: Params, config: Config, { values }: TensorInputs): TensorOutputs {
  let x = convNormActive(params, "features.0", values.pixel_values as Value, {
    out: config.stem_width,
    kernel: 3,
    stride: config.stem_stride,
  });
  const boundaries = [x];
  for (const [at, spec] of config.blocks.entries()) {
    x = block(params, `features.${at + 1}`, x, spec);
    boundaries.push(x);
  }
  const last = `features.${config.blocks.length + 1}`;
  const top = convNormActive(params, last, x, { out: config.last_width, kernel: 1 });
  const logits = linearLayer(params, "classifier.1", globalMean(top), labelsOf(config).length, {
    head: true,
  });
  return { values: { logits }, boundaries };
}

const describe = (config: Config) => ({
  task: "image-classification" as const,
  inputs: [imageInput(config.num_channels)],
  probeAxes: { batch: 1, height: 32, width: 32 },
  // The two 1x1 convolutions of a block, as regular expressions cannot be defaults: every depthwise one is `conv.1.0`.
  defaultTargets: ["conv.0.0", "conv.2"],
  labels: labelsOf(config),
});

/** Steps of the 17 blocks of the published network; other networks do not show theirs. */
const STRIDES = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];

/** What the names and shapes of a state dict say; undefined unless it has the 17 blocks of the published network. */
function recognise(weights: Weights): TorchvisionMobilenetConfig | undefined {
  const shape = (name: string) => weights.get(name)?.shape as readonly number[] | undefined;
  const [first, last, head] = ["features.0.0", "features.18.0", "classifier.1"].map((name) =>
    shape(`${name}.weight`),
  );
  if (!first || !last || !head || weights.has("features.19.0.weight")) return undefined;
  const blocks = STRIDES.map((stride, at) => {
    const path = `features.${at + 1}.conv`;
    const project =
      shape(`${path}.2.weight`)?.length === 4 ? shape(`${path}.2.weight`) : shape(`${path}.1.weight`);
    return { inner: project?.[1] ?? 0, out: project?.[0] ?? 0, stride };
  });
  if (blocks.some(({ inner }) => inner === 0)) return undefined;
  return {
    model_type: "torchvision_mobilenet_v2",
    num_channels: first[1] as number,
    stem_width: first[0] as number,
    blocks,
    last_width: last[0] as number,
    num_labels: head[0] as number,
  };
}

/** MobileNetV2, arXiv 1801.04381, as torchvision's state dicts name it. */
export const torchvisionMobilenet: TensorArchitecture<Config> = {
  modelTypes: ["torchvision_mobilenet_v2"],
  schema,
  ignored: /\.num_batches_tracked$/,
  tasks: ["image-classification"],
  taskOf: () => "image-classification",
  describe,
  recognise,
  weightSpecs: (config) => recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs)),
  build: (config, weights, inputs) => lay(paramsOf(weights), config, inputs),
};
