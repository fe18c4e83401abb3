import { TunesmithError } from "../errors/index.js";
import { input, makeGraph } from "../graph/index.js";
import { evaluate, type SessionOptions } from "../runtime/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { inputsOf, parameterFeeds } from "./feeds.js";
import { resultsOf } from "./rewrite.js";
import type {
  AnyModel,
  CausalLm,
  InputSpec,
  InputsOf,
  LmInputs,
  Model,
  Outputs,
  OutputsOf,
  TensorInputs,
  TensorModel,
} from "./types.js";

/** Fresh inputs of static shape. */
export const staticInputs = (batch: number, length: number): LmInputs => ({
  ids: input("ids", "int64", [batch, length]),
  positions: input("positions", "int64", [batch, length]),
  segments: input("segments", "int32", [batch, length]),
});

/** Sizes of named axes; what is not named takes the model's probe size. */
export type AxisSizes = Readonly<Record<string, number>>;

type TensorShape = Pick<TensorModel, "inputs" | "probeAxes">;

/** The shape of an input with every axis a number. */
export const inputShape = (model: TensorShape, spec: InputSpec, axes: AxisSizes = {}): number[] =>
  spec.shape.map((dim) => (typeof dim === "number" ? dim : (axes[dim] ?? model.probeAxes[dim] ?? 1)));

/** Fresh inputs of a tensor model of static shape, each named as the model names it. */
export const tensorInputs = (model: TensorShape, axes: AxisSizes = {}, training = false): TensorInputs => ({
  values: Object.fromEntries(
    model.inputs.map((spec) => [spec.name, input(spec.name, spec.dtype, inputShape(model, spec, axes))]),
  ),
  training,
});

const isLm = (model: AnyModel): model is CausalLm => model.task === "causal-lm";

/** Inputs of a small pass, and fixed numbers for them that do not depend on the weights. */
export interface Probe<M extends Model = Model> {
  readonly inputs: InputsOf<M>;
  readonly feeds: Readonly<Record<string, Tensor>>;
}

/** What a model is looked at, and told apart with: one short row (`tail` at its end), or one example. */
export function probe(model: AnyModel, length?: number, tail: readonly number[] = []): Probe {
  if (isLm(model)) return lmProbe([...probeIds(model.sizes.vocabSize, length), ...tail]);
  const tensors = model as TensorModel;
  const inputs = tensorInputs(tensors);
  const feeds = tensors.inputs.map((spec) => [spec.name, exampleOf(tensors, spec)] as const);
  return { inputs, feeds: Object.fromEntries(feeds) };
}

function lmProbe(ids: readonly number[]): Probe<CausalLm> {
  const shape = [1, ids.length];
  const ones = ids.map(() => 1);
  return {
    inputs: staticInputs(1, ids.length),
    feeds: {
      ids: tensor("int64", shape, ids),
      positions: tensor("int64", shape, [...ids.keys()]),
      segments: tensor("int32", shape, ones),
    },
  };
}

function exampleOf(model: TensorModel, spec: InputSpec): Tensor {
  const shape = inputShape(model, spec);
  const count = shape.reduce((a, b) => a * b, 1);
  if (spec.fill !== undefined) return tensor(spec.dtype, shape, new Array(count).fill(spec.fill));
  if (spec.below !== undefined) return tensor(spec.dtype, shape, probeIds(spec.below, count));
  if (spec.dtype === "bool" || spec.dtype.startsWith("int") || spec.dtype.startsWith("uint"))
    return tensor(spec.dtype, shape, new Array(count).fill(1));
  return tensor(spec.dtype, shape, rng(0, "probe", spec.name).fillNormal(new Float32Array(count)));
}

/** A forward pass laid over a small input: enough to see every module. */
export function probeOutputs<M extends Model>(model: M, length = 2): OutputsOf<M> {
  const build = (model as AnyModel).build as (inputs: unknown) => Outputs;
  return build(probe(model, length).inputs) as OutputsOf<M>;
}

/** Logits `[length, vocab]` of one row of ids. */
export async function logitsOf(
  model: CausalLm,
  ids: readonly number[],
  options?: SessionOptions,
): Promise<Tensor> {
  const { inputs, feeds } = lmProbe(ids);
  const { logits } = await run(model, model.build(inputs), feeds, options);
  return logits as Tensor;
}

/**
 * Runs a tensor model once on tensors given by input name. An input that is left out holds its default. Throws
 * `shape-mismatch` (axes that contradict one another), and what the session throws.
 *
 * @example
 * ```ts
 * import { runModel, type TensorModel } from "tunesmith/models";
 * import { tensor } from "tunesmith/tensor";
 * export const classify = (model: TensorModel, pixels: Float32Array) =>
 *   runModel(model, { pixel_values: tensor("float32", [1, 3, 224, 224], pixels) });
 * ```
 */
export async function runModel(
  model: TensorModel,
  given: Readonly<Record<string, Tensor>>,
  options?: SessionOptions,
): Promise<Record<string, Tensor>> {
  const axes = axesOf(model, given);
  const feeds = Object.fromEntries(
    model.inputs.map((spec) => [spec.name, given[spec.name] ?? filled(model, spec, axes)]),
  );
  return run(model, model.build(tensorInputs(model, axes)), feeds, options);
}

/** The size of every named axis, as the given tensors have it. Throws `data-invalid`, `shape-mismatch` naming the input. */
export function axesOf(
  model: Pick<TensorModel, "inputs">,
  given: Readonly<Record<string, Tensor>>,
): Record<string, number> {
  const axes: Record<string, number> = {};
  const unknown = Object.keys(given).find((name) => !model.inputs.some((spec) => spec.name === name));
  if (unknown !== undefined) {
    throw new TunesmithError("data-invalid", `the model has no input '${unknown}'`, {
      fix: `its inputs: ${model.inputs.map(({ name }) => name).join(", ")}`,
    });
  }
  for (const spec of model.inputs) {
    const found = given[spec.name];
    if (!found && spec.fill === undefined) {
      throw new TunesmithError("data-invalid", `input '${spec.name}' is not given`, {
        fix: `give a ${spec.dtype} tensor [${spec.shape.join(", ")}]`,
      });
    }
    if (found) bindAxes(spec, found, axes);
  }
  return axes;
}

function bindAxes(spec: InputSpec, { dtype, shape }: Tensor, axes: Record<string, number>): void {
  const fits =
    dtype === spec.dtype &&
    shape.length === spec.shape.length &&
    spec.shape.every((dim, at) => (typeof dim === "number" ? dim : (axes[dim] ?? shape[at])) === shape[at]);
  if (!fits) {
    throw new TunesmithError(
      "shape-mismatch",
      `input '${spec.name}' is ${dtype} [${shape.join(", ")}], the model reads ${spec.dtype} [${spec.shape.join(", ")}]`,
      { fix: "bring it to that type and shape; equal names are equal sizes", details: { axes } },
    );
  }
  spec.shape.forEach((dim, at) => {
    if (typeof dim === "string") axes[dim] = shape[at] as number;
  });
}

/** The default of an input that is not given. */
export function filled(model: TensorShape, spec: InputSpec, axes: AxisSizes): Tensor {
  const shape = inputShape(model, spec, axes);
  return tensor(spec.dtype, shape, new Array(shape.reduce((a, b) => a * b, 1)).fill(spec.fill ?? 0));
}

async function run(
  model: AnyModel,
  outputs: Outputs,
  given: Readonly<Record<string, Tensor>>,
  options?: SessionOptions,
): Promise<Record<string, Tensor>> {
  const results = Object.entries(resultsOf(outputs));
  const inputs = inputsOf(results.map(([, value]) => value));
  const graph = makeGraph("forward", inputs, results);
  const read = Object.entries(given).filter(([name]) => inputs.some((value) => value.name === name));
  return evaluate(
    graph,
    { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) },
    options,
  );
}

/** A fixed row of ids that every vocabulary has; logits on it identify a model's behaviour. */
export const probeIds = (vocabSize: number, length = 8): number[] =>
  Array.from({ length }, (_, at) => (at * 37 + 11) % vocabSize);
