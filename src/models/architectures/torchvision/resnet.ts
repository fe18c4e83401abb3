import { z } from "zod";
import { type Dim, ops, type Value, withScope } from "../../../graph/index.js";
import type { TensorInputs, TensorOutputs, Weights } from "../../types.js";
import type { TensorArchitecture } from "../definition.js";
import { labelsOf, labelsSchema } from "../parts/labels.js";
import { batchNormLayer, convLayer, globalMean, linearLayer } from "../parts/modules.js";
import { type Params, paramsOf, recordSpecs } from "../parts/params.js";
import { imageInput } from "./images.js";

const size = z.number().int().positive();

const schema = z.looseObject({
  ...labelsSchema,
  model_type: z.literal("torchvision_resnet"),
  num_channels: size.default(3),
  block: z.enum(["basic", "bottleneck"]).default("basic"),
  depths: z.array(size.max(1000)).min(1).max(16),
  /** Channels that leave the blocks of each stage. */
  widths: z.array(size).min(1).max(16),
  /** Channels inside of them; default: `widths`, a quarter of it in bottlenecks. */
  inner: z.array(size).optional(),
  groups: size.default(1),
  /** `imagenet`: 7x7 by steps of 2 and pooling; `cifar`: 3x3. */
  stem: z.enum(["imagenet", "cifar"]).default("imagenet"),
  stem_width: size.default(64),
  /** Module of the shortcut's convolution and norm; `pad` subsamples and fills up with zeros instead (option A of the paper). */
  shortcut: z.enum(["downsample", "shortcut", "pad"]).default("downsample"),
  head: z.enum(["fc", "linear"]).default("fc"),
});
/** A residual network whose tensors are named as torchvision's, or as the CIFAR networks that follow it. */
export type TorchvisionResnetConfig = z.input<typeof schema>;
type Config = z.output<typeof schema>;

interface Block {
  readonly path: string;
  readonly inner: number;
  readonly out: number;
  readonly stride: number;
}

function block(params: Params, config: Config, x: Value, { path, inner, out, stride }: Block): Value {
  const norm = (at: number, value: Value) => batchNormLayer(params, `${path}.bn${at}`, value);
  const step = (at: number, value: Value, width: number, kernel: number, by: number, groups = 1) =>
    norm(
      at,
      convLayer(params, `${path}.conv${at}`, value, {
        out: width,
        kernel,
        stride: by,
        padding: Math.floor(kernel / 2),
        groups,
        bias: false,
      }),
    );
  const relu = (value: Value) => withScope(path, () => ops.relu(value));
  let y: Value;
  if (config.block === "basic") {
    y = step(2, relu(step(1, x, inner, 3, stride)), out, 3, 1);
  } else {
    const mixed = step(2, relu(step(1, x, inner, 1, 1)), inner, 3, stride, config.groups);
    y = step(3, relu(mixed), out, 1, 1);
  }
  return withScope(path, () =>
    ops.relu(ops.add(y, shortcut(params, config, x, { path, inner, out, stride }))),
  );
}

function shortcut(params: Params, config: Config, x: Value, { path, out, stride }: Block): Value {
  const channels = x.shape[1] as number;
  if (channels === out && stride === 1) return x;
  if (config.shortcut !== "pad") {
    const at = `${path}.${config.shortcut}`;
    const y = convLayer(params, `${at}.0`, x, { out, kernel: 1, stride, bias: false });
    return batchNormLayer(params, `${at}.1`, y);
  }
  const picked = ops.slice(ops.slice(x, 2, 0, undefined, stride), 3, 0, undefined, stride);
  const before = Math.floor((out - channels) / 2);
  return ops.pad(picked, [0, before, 0, 0], [0, out - channels - before, 0, 0]);
}

function stem(params: Params, config: Config, pixels: Value): Value {
  const wide = config.stem === "imagenet";
  const convolved = convLayer(params, "conv1", pixels, {
    out: config.stem_width,
    kernel: wide ? 7 : 3,
    stride: wide ? 2 : 1,
    padding: wide ? 3 : 1,
    bias: false,
  });
  const x = ops.relu(batchNormLayer(params, "bn1", convolved));
  return wide ? ops.maxPool(x, [3, 3], { strides: [2, 2], pads: [1, 1, 1, 1] }) : x;
}

function lay(params: Params, config: Config, { values }: TensorInputs): TensorOutputs {
  let x = stem(params, config, values.pixel_values as Value);
  const boundaries: Value[] = [];
  const share = config.block === "basic" ? 1 : 4;
  for (const [stage, out] of config.widths.entries()) {
    for (let layer = 0; layer < (config.depths[stage] ?? 1); layer++) {
      boundaries.push(x);
      const stride = layer === 0 && stage > 0 ? 2 : 1;
      const inner = config.inner?.[stage] ?? Math.floor(out / share);
      x = block(params, config, x, { path: `layer${stage + 1}.${layer}`, inner, out, stride });
    }
  }
  boundaries.push(x);
  const logits = linearLayer(params, config.head, globalMean(x), labelsOf(config).length, { head: true });
  return { values: { logits }, boundaries };
}

const describe = (config: Config) => ({
  task: "image-classification" as const,
  inputs: [imageInput(config.num_channels)],
  probeAxes: { batch: 1, height: 32, width: 32 },
  defaultTargets: ["conv1", "conv2"],
  labels: labelsOf(config),
});

const out = (weights: Weights, name: string): number | undefined => weights.get(name)?.shape[0] as number;

/** What the names and shapes of a state dict say; undefined when it is something else. */
function recognise(weights: Weights): TorchvisionResnetConfig | undefined {
  const first = weights.get("conv1.weight")?.shape as readonly Dim[] | undefined;
  const head = (["fc", "linear"] as const).find((name) => weights.has(`${name}.weight`));
  if (first?.length !== 4 || !head || !weights.has("layer1.0.conv1.weight") || !weights.has("bn1.weight"))
    return undefined;
  const kernel = first[2];
  if (kernel !== 7 && kernel !== 3) return undefined;
  const deep = weights.has("layer1.0.conv3.weight");
  const [depths, widths, inner]: [number[], number[], number[]] = [[], [], []];
  for (let stage = 1; weights.has(`layer${stage}.0.conv1.weight`); stage++) {
    let depth = 0;
    while (weights.has(`layer${stage}.${depth}.conv1.weight`)) depth++;
    depths.push(depth);
    widths.push(out(weights, `layer${stage}.0.conv${deep ? 3 : 2}.weight`) ?? 0);
    inner.push(out(weights, `layer${stage}.0.conv1.weight`) ?? 0);
  }
  const projection = (["downsample", "shortcut"] as const).find((name) =>
    [...weights.keys()].some((key) => key.includes(`.${name}.0.weight`)),
  );
  const grouped = weights.get("layer1.0.conv2.weight")?.shape as readonly number[];
  return {
    model_type: "torchvision_resnet",
    num_channels: first[1] as number,
    block: deep ? "bottleneck" : "basic",
    depths,
    widths,
    inner,
    groups: deep ? (inner[0] as number) / (grouped[1] as number) : 1,
    stem: kernel === 7 ? "imagenet" : "cifar",
    stem_width: first[0] as number,
    shortcut: projection ?? "pad",
    head,
    num_labels: out(weights, `${head}.weight`) as number,
  };
}

/** Residual networks, arXiv 1512.03385, as state dicts of torchvision and of the CIFAR networks name them. */
export const torchvisionResnet: TensorArchitecture<Config> = {
  modelTypes: ["torchvision_resnet"],
  schema,
  ignored: /\.num_batches_tracked$/,
  tasks: ["image-classification"],
  taskOf: () => "image-classification",
  describe,
  recognise,
  weightSpecs: (config) => recordSpecs(describe(config), (params, inputs) => lay(params, config, inputs)),
  build: (config, weights, inputs) => lay(paramsOf(weights), config, inputs),
};
