import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type Dim, ops, type Value } from "../../graph/index.js";
import type { TensorInputs, TensorOutputs } from "../types.js";
import type { TensorArchitecture } from "./definition.js";
import { labelsOf, labelsSchema } from "./parts/labels.js";
import { activation } from "./parts/layers.js";
import { batchNormLayer, convLayer, globalMean, linearLayer } from "./parts/modules.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";

const size = z.number().int().positive().max(1_000_000);
const name = z.string().min(1);
const window = { kernel: size, stride: size.optional() };

const layer = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("conv"),
    name,
    out: size,
    ...window,
    padding: z.number().int().nonnegative().optional(),
    dilation: size.optional(),
    groups: size.optional(),
    bias: z.boolean().optional(),
  }),
  z.object({ type: z.literal("batch_norm"), name, epsilon: z.number().positive().optional() }),
  z.object({ type: z.literal("activation"), function: z.string() }),
  z.object({ type: z.literal("max_pool"), ...window }),
  z.object({ type: z.literal("average_pool"), ...window }),
  z.object({ type: z.literal("global_mean") }),
  z.object({ type: z.literal("flatten") }),
  z.object({ type: z.literal("linear"), name, out: size, bias: z.boolean().optional() }),
]);

const schema = z.looseObject({
  ...labelsSchema,
  model_type: z.literal("conv_net"),
  /** Channels, height and width of an image. */
  image: z.tuple([size, size, size]),
  /** In order; `name` is the module whose tensors the layer takes. */
  layers: z.array(layer).min(1).max(10_000),
});
/** A chain of layers, for small networks of one's own whose file holds tensors only. */
export type ConvNetConfig = z.input<typeof schema>;
type Config = z.output<typeof schema>;
type Layer = Config["layers"][number];

function apply(params: Params, x: Value, layer: Layer): Value {
  switch (layer.type) {
    case "conv":
      return convLayer(params, layer.name, x, layer);
    case "batch_norm":
      return batchNormLayer(
        params,
        layer.name,
        x,
        layer.epsilon === undefined ? {} : { epsilon: layer.epsilon },
      );
    case "activation":
      return activation(layer.function)(x);
    case "global_mean":
      return globalMean(x);
    case "flatten":
      return ops.reshape(
        x,
        [x.shape[0] as Dim, x.shape.slice(1).reduce<number>((a, b) => a * Number(b), 1)],
        [x],
      );
    case "linear":
      if (x.shape.length === 2) return linearLayer(params, layer.name, x, layer.out, layer);
      throw new TunesmithError("config-invalid", `linear layer '${layer.name}' follows a layer of images`, {
        fix: "put { type: 'flatten' } or { type: 'global_mean' } before it",
      });
    default: {
      const pool = layer.type === "max_pool" ? ops.maxPool : ops.averagePool;
      const stride = layer.stride ?? layer.kernel;
      return pool(x, [layer.kernel, layer.kernel], { strides: [stride, stride] });
    }
  }
}

function lay(params: Params, config: Config, { values }: TensorInputs): TensorOutputs {
  let x = values.pixel_values as Value;
  const boundaries: Value[] = [];
  for (const layer of config.layers) {
    if (layer.type === "conv" && boundaries.at(-1) !== x) boundaries.push(x);
    x = apply(params, x, layer);
  }
  boundaries.push(x);
  return { values: { logits: x }, boundaries };
}

/** The last named linear or convolutional layer makes the classes. */
const classes = (config: Config): number =>
  config.layers.reduce((found, layer) => ("out" in layer ? layer.out : found), 1);

const describe = (config: Config) => ({
  task: "image-classification" as const,
  inputs: [{ name: "pixel_values", dtype: "float32" as const, shape: ["batch", ...config.image] }],
  probeAxes: { batch: 1 },
  defaultTargets: config.layers.flatMap((layer) => (layer.type === "conv" ? [layer.name] : [])),
  labels: labelsOf({ id2label: config.id2label, num_labels: classes(config) }),
});

/** Convolutional networks described layer by layer (`model_type: conv_net`). */
export const convNet: TensorArchitecture<Config> = {
  modelTypes: ["conv_net"],
  schema,
  ignored: /\.num_batches_tracked$/,
  tasks: ["image-classification"],
  taskOf: () => "image-classification",
  describe,
  weightSpecs: (config) => recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs)),
  build: (config, weights, inputs) => lay(paramsOf(weights), config, inputs),
};
