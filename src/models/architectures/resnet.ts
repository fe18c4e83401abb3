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
  embedding_size: size.default(64),
  hidden_sizes: z.array(size).min(1).max(100).default([256, 512, 1024, 2048]),
  depths: z.array(size.max(1000)).min(1).max(100).default([3, 4, 6, 3]),
  layer_type: z.enum(["basic", "bottleneck"]).default("bottleneck"),
  hidden_act: z.string().default("relu"),
  downsample_in_first_stage: z.boolean().default(false),
  downsample_in_bottleneck: z.boolean().default(false),
});
type Config = z.infer<typeof schema>;

interface Step {
  readonly out: number;
  readonly kernel: number;
  readonly stride?: number;
}

const convNorm = (params: Params, path: string, x: Value, { out, kernel, stride = 1 }: Step): Value => {
  const options = { out, kernel, stride, padding: Math.floor(kernel / 2), bias: false };
  return batchNormLayer(
    params,
    `${path}.normalization`,
    convLayer(params, `${path}.convolution`, x, options),
  );
};

/** The convolutions of a block: two of 3x3, or a 3x3 between two that change the width. */
function steps(config: Config, out: number, stride: number): Step[] {
  if (config.layer_type === "basic")
    return [
      { out, kernel: 3, stride },
      { out, kernel: 3 },
    ];
  const inner = Math.floor(out / 4);
  const first = config.downsample_in_bottleneck;
  return [
    { out: inner, kernel: 1, stride: first ? stride : 1 },
    { out: inner, kernel: 3, stride: first ? 1 : stride },
    { out, kernel: 1 },
  ];
}

function block(params: Params, config: Config, path: string, x: Value, out: number, stride: number): Value {
  const act = activation(config.hidden_act);
  const inner = steps(config, out, stride);
  let y = x;
  for (const [at, step] of inner.entries()) {
    y = convNorm(params, `${path}.layer.${at}`, y, step);
    // The reference's blocks take the config's activation at their end only.
    if (at < inner.length - 1) y = withScope(path, () => ops.relu(y));
  }
  const isPlain = x.shape[1] === out && stride === 1;
  const rest = isPlain ? x : convNorm(params, `${path}.shortcut`, x, { out, kernel: 1, stride });
  return withScope(path, () => act(ops.add(y, rest)));
}

function lay(
  params: Params,
  config: Config,
  { values }: TensorInputs,
  task: TensorModel["task"],
): TensorOutputs {
  const stem = "resnet.embedder.embedder";
  let x = convNorm(params, stem, values.pixel_values as Value, {
    out: config.embedding_size,
    kernel: 7,
    stride: 2,
  });
  x = withScope("resnet.embedder", () =>
    ops.maxPool(activation(config.hidden_act)(x), [3, 3], { strides: [2, 2], pads: [1, 1, 1, 1] }),
  );
  const boundaries: Value[] = [];
  for (const [stage, out] of config.hidden_sizes.entries()) {
    for (let layer = 0; layer < (config.depths[stage] ?? 1); layer++) {
      boundaries.push(x);
      const halves = layer === 0 && (stage > 0 || config.downsample_in_first_stage);
      const path = `resnet.encoder.stages.${stage}.layers.${layer}`;
      x = block(params, config, path, x, out, halves ? 2 : 1);
    }
  }
  boundaries.push(x);
  const pooled = withScope("resnet.pooler", () => globalMean(x));
  if (task !== "image-classification") {
    const shape: Dim[] = [...pooled.shape, 1, 1];
    return {
      values: { last_hidden_state: x, pooler_output: ops.reshape(pooled, shape, [pooled]) },
      boundaries,
    };
  }
  const logits = linearLayer(params, "classifier.1", pooled, labelsOf(config).length, { head: true });
  return { values: { logits }, boundaries };
}

const describe = (config: Config, task: TensorModel["task"]) => ({
  task,
  inputs: [
    {
      name: "pixel_values",
      dtype: "float32" as const,
      shape: ["batch", config.num_channels, "height", "width"],
    },
  ],
  probeAxes: { batch: 1, height: 64, width: 64 },
  defaultTargets: ["convolution"],
  labels: labelsOf(config),
});

/** Residual networks, arXiv 1512.03385, as transformers names them (`model_type: resnet`). */
export const resnet: TensorArchitecture<Config> = {
  modelTypes: ["resnet"],
  schema,
  ignored: /\.num_batches_tracked$|^classifier\./,
  tasks: ["image-classification", "embedding"],
  taskOf: (_, weights) => (weights.has("classifier.1.weight") ? "image-classification" : "embedding"),
  describe,
  rename: (name) => (/^(embedder|encoder)\./.test(name) ? `resnet.${name}` : name),
  className: (_, task) => `ResNet${task === "embedding" ? "Model" : "ForImageClassification"}`,
  weightSpecs: (config, task) =>
    recordSpecs(describe(config, task), (params, inputs) => lay(params, config, inputs, task)),
  build: (config, weights, inputs, task) => lay(paramsOf(weights), config, inputs, task),
};
