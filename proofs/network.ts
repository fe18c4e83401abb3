import { constant, ops, scope, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  type Adapted,
  adapt,
  freeze,
  type SiteConfig,
  unfreeze,
} from "../src/methods/index.js";
import { frozenTensor, runModel, type TensorModel } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { type Tensor, tensor, toFloat32 } from "../src/tensor/index.js";
import {
  adam,
  classification,
  type ExampleSource,
  fit,
  linear,
  type Optimizer,
  type TensorLoss,
  tensorObjective,
} from "../src/training/index.js";

/** Points and their classes. */
export interface Points {
  readonly width: number;
  /** `[count, width]` */
  readonly x: Float32Array;
  readonly labels: readonly number[];
}

export const normals = (count: number, std: number, ...key: (string | number)[]): Float32Array =>
  rng(0, "proof", ...key).fillNormal(new Float32Array(count), 0, std);

/** A Gaussian mixture: centres of standard deviation `spread`, unit noise, classes in turn. */
export function mixture(
  centres: Float32Array,
  {
    classes,
    count,
    seed,
  }: { readonly classes: number; readonly count: number; readonly seed: number | string },
): Points {
  const width = centres.length / classes;
  const x = normals(count * width, 1, "points", seed);
  const labels = Array.from({ length: count }, (_, row) => row % classes);
  for (const [row, label] of labels.entries())
    for (let at = 0; at < width; at++)
      x[row * width + at] = Number(x[row * width + at]) + Number(centres[label * width + at]);
  return { width, x, labels };
}

export interface NetworkOptions {
  readonly seed: number | string;
  readonly activation?: (x: Value) => Value;
  /** Gives what enters the last map as `last_hidden_state` too. */
  readonly hidden?: boolean;
}

/** Linear maps `fc1`, `fc2`, ... with biases and an activation between, started as PyTorch starts them. */
export function network(
  sizes: readonly number[],
  { seed, activation = ops.relu, hidden = false }: NetworkOptions,
): TensorModel {
  const layers = sizes.slice(1).map((out, at) => {
    const [name, inn] = [`fc${at + 1}`, Number(sizes[at])];
    const random = (shape: number[], part: string) => {
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
      const bound = 1 / Math.sqrt(inn);
      rng(0, "network", seed, name, part).fillUniform(data, -bound, bound);
      return constant(tensor("float32", shape, data), `${name}.${part}`);
    };
    return { name, weight: random([out, inn], "weight"), bias: random([out], "bias") };
  });
  const all = layers.flatMap(({ weight, bias }) => [weight, bias]);
  return networkOf(layers, new Map(all.map((value) => [String(value.name), value])), Number(sizes[0]), {
    activation,
    hidden,
  });
}

interface Layer {
  readonly name: string;
  readonly weight: Value;
  readonly bias: Value;
}

function networkOf(
  layers: readonly Layer[],
  weights: ReadonlyMap<string, Value>,
  width: number,
  { activation, hidden }: Required<Pick<NetworkOptions, "activation" | "hidden">>,
): TensorModel {
  return {
    task: "custom",
    architecture: "network",
    weights,
    parameters: new Map(),
    config: {},
    defaultTargets: layers.map(({ name }) => name),
    tokenizer: undefined,
    origin: undefined,
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", width] }],
    probeAxes: { batch: 2 },
    build({ values }) {
      let h = values.x as Value;
      let entering = h;
      for (const [at, { name, weight, bias }] of layers.entries()) {
        if (at > 0) h = activation(h);
        const x = h;
        entering = x;
        h = scope(name, () => ops.gemm(x, weight, bias, { transB: true }));
      }
      const state: Record<string, Value> = hidden ? { last_hidden_state: entering } : {};
      return { values: { logits: h, ...state }, boundaries: [] };
    },
  };
}

const sourceOf = ({ x, labels, width }: Points): ExampleSource => ({
  size: labels.length,
  hash: "points",
  at: (index) => ({
    inputs: { x: tensor("float32", [width], x.subarray(index * width, (index + 1) * width)) },
    targets: { label: tensor("int64", [], [Number(labels[index])]) },
  }),
});

export interface TuneOptions {
  readonly steps: number;
  readonly lr: number;
  /** Default 64. */
  readonly batchSize?: number;
  readonly seed?: number;
  /** Default: Adam with linear decay. */
  readonly optimizer?: Optimizer;
  readonly loss?: TensorLoss;
  /** Default true: a run that changes nothing any more is an error. */
  readonly guardZeroUpdates?: boolean;
  /** Called after every update. */
  readonly onStep?: (step: number) => void;
}

/** Trains what the model lets be trained, in place; gives the loss of every step. */
export async function tune(
  model: TensorModel,
  data: Points | ExampleSource,
  {
    steps,
    lr,
    batchSize = 64,
    seed = 0,
    optimizer,
    loss = classification(),
    guardZeroUpdates = true,
    onStep,
  }: TuneOptions,
): Promise<number[]> {
  const losses: number[] = [];
  const objective = tensorObjective(model, { train: "at" in data ? data : sourceOf(data), batchSize, loss });
  await fit(objective, {
    steps,
    seed,
    guardZeroUpdates,
    optimizer: optimizer ?? adam({ lr, schedule: linear({ totalSteps: steps }) }),
    session: { threads: 1, worker: false },
    onEvent(event) {
      if (event.type !== "step") return;
      losses.push(event.loss);
      onStep?.(event.step);
    },
  });
  return losses;
}

/** The model with all its weights trained on the points, as a plain model. */
export async function pretrain(
  model: TensorModel,
  points: Points,
  options: TuneOptions,
): Promise<TensorModel> {
  const unfrozen = await unfreeze(model);
  await tune(unfrozen, points, options);
  return freeze(unfrozen);
}

/** The model with an adaptation, trained. */
export async function adapted<C extends SiteConfig>(
  model: TensorModel,
  adaptation: Adaptation<C>,
  data: Points | ExampleSource,
  options: TuneOptions,
): Promise<Adapted<TensorModel>> {
  const own = await adapt(model, adaptation, { seed: options.seed ?? 0 });
  await tune(own, data, options);
  return own;
}

/** `[count, classes]`, row-major. */
export async function logits(model: TensorModel, { x, width, labels }: Points): Promise<Float32Array> {
  const result = await runModel(model, { x: tensor("float32", [labels.length, width], x) });
  return result.logits?.data as Float32Array;
}

/** Share of points whose largest logit is that of their class. */
export async function accuracy(model: TensorModel, points: Points): Promise<number> {
  const scores = await logits(model, points);
  const classes = scores.length / points.labels.length;
  const right = points.labels.filter((label, row) => {
    const own = scores.subarray(row * classes, (row + 1) * classes);
    return own.every((score, at) => at === label || score < Number(own[label]));
  });
  return right.length / points.labels.length;
}

/** A live tensor of the model's adapter, of one module: int64 or float32. */
export function liveTensor(model: Adapted<TensorModel>, path: string, key: string): Tensor {
  const found = model.adapters.get("default")?.sites.get(path)?.tensors[key];
  if (!found) throw new Error(`no ${key} at ${path}`);
  return found.tensor;
}

/** Numbers of a constant weight, as they lie in the model. */
export async function numbersOf(model: TensorModel, name: string): Promise<Float32Array> {
  const weight = model.weights.get(name);
  if (!weight) throw new Error(`no weight ${name}`);
  return toFloat32(await frozenTensor(weight));
}

/** A check that `measured` is at least `least`; `most` bounds what the quantity can be. */
export const atLeast = (what: string, measured: number, least: number, most = 1) => ({
  what: `${what} (at least ${least})`,
  measured,
  expected: (least + most) / 2,
  tolerance: (most - least) / 2,
});
