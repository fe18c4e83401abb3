import type { BatchState } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import { input, ops, type Value } from "../graph/index.js";
import { type InputSpec, inputShape, type TensorModel } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import type { Tensor } from "../tensor/index.js";
import { type Field, stackField } from "./collate-fields.js";
import type { PlainData } from "./exact-json.js";
import type { LossGraph, Objective, ScoreKeeper, StepBatch, StepShape } from "./objective.js";

/** One example: tensors without the batch axis, by name of the model's input, or of the loss's target. */
export interface TensorExample {
  readonly inputs: Readonly<Record<string, Tensor>>;
  readonly targets: Readonly<Record<string, Tensor>>;
}

/** Examples that may be made when they are needed: decoded images, sounds. */
export interface ExampleSource {
  readonly size: number;
  at(index: number): TensorExample | Promise<TensorExample>;
  /** Tells one set of examples from another, for resuming. */
  readonly hash: string;
}

/** What a loss is computed from. */
export interface LossInputs {
  /** The model's outputs by name. */
  readonly outputs: Readonly<Record<string, Value>>;
  /** The examples' targets by name, with the batch axis. */
  readonly targets: Readonly<Record<string, Value>>;
  /** float32 `[batch]`, 0 for rows that only fill the batch up. */
  readonly rowWeights: Value;
}

export interface TensorLoss {
  readonly name: string;
  /** Targets it reads; `pad` fills what is shorter. */
  readonly targets: readonly Field[];
  /** The loss summed over the items that count. */
  sum(given: LossInputs): Value;
  /** Items of one example: what the mean is over. Default 1. */
  readonly count?: (example: TensorExample) => number;
  /** Scores of an evaluation; they read the outputs named. */
  readonly outputs?: readonly string[];
  readonly scores?: () => ScoreKeeper;
}

export interface TensorObjectiveOptions {
  readonly train: ExampleSource;
  readonly validation?: ExampleSource | undefined;
  readonly batchSize: number;
  readonly loss: TensorLoss;
  /** Sizes an axis may be padded to, ascending, by axis name: `{ length: [32, 64] }`. Default: the longest example. */
  readonly buckets?: Readonly<Record<string, readonly number[]>>;
  /** Identity of the run beyond the data. */
  readonly identity?: Readonly<Record<string, PlainData>>;
}

const ROW_WEIGHTS = "row_weights";
const targetName = (name: string) => `target/${name}`;

/**
 * Any loss over the outputs of a tensor model. Examples are stacked, padded per axis to the longest of the batch or to a
 * bucket; the last batch of an epoch is filled up with rows that count nothing.
 *
 * Throws `data-empty`, `data-invalid` naming the example whose tensors do not fit.
 *
 * @example
 * ```ts
 * import type { TensorModel } from "tunesmith/models";
 * import { ops } from "tunesmith/graph";
 * import { type ExampleSource, type TensorLoss, tensorObjective } from "tunesmith/training";
 * const loss: TensorLoss = {
 *   name: "l1",
 *   targets: [{ name: "y", dtype: "float32", shape: ["batch"] }],
 *   sum: ({ outputs, targets, rowWeights }) => {
 *     const error = ops.abs(ops.sub(ops.reshape(outputs.logits!, [-1]), targets.y!));
 *     return ops.reduceSum(ops.mul(error, rowWeights), undefined, false);
 *   },
 * };
 * export const objective = (model: TensorModel, train: ExampleSource) =>
 *   tensorObjective(model, { train, batchSize: 8, loss });
 * ```
 */
export function tensorObjective(model: TensorModel, options: TensorObjectiveOptions): Objective<TensorModel> {
  const { train, validation, batchSize, loss, identity = {} } = options;
  if (train.size === 0) {
    throw new TunesmithError("data-empty", "there is nothing to train on", {
      fix: "check the dataset's report",
    });
  }
  return {
    name: loss.name,
    model,
    identity: { batchSize, examples: train.size, dataHash: train.hash, ...identity },
    lossGraph: (shape, { training }) => lossGraph(model, loss, shape, training),
    batches: (from, seed) => trainingBatches(model, options, from, seed),
    ...(validation && validation.size > 0
      ? { validation: () => epochBatches(model, { ...options, train: validation }, 0, undefined, 0) }
      : {}),
    scores: loss.scores,
  };
}

async function* trainingBatches(
  model: TensorModel,
  options: TensorObjectiveOptions,
  from: BatchState,
  seed: number,
): AsyncGenerator<StepBatch> {
  for (let { epoch, step } = from; ; epoch++, step = 0)
    yield* epochBatches(model, options, epoch, seed, step);
}

/** The batches of one epoch from a position on; without a seed in the order of the data. */
async function* epochBatches(
  model: TensorModel,
  { train, batchSize, loss, buckets = {} }: TensorObjectiveOptions,
  epoch: number,
  seed: number | undefined,
  start: number,
): AsyncGenerator<StepBatch> {
  const { size } = train;
  const order =
    seed === undefined
      ? Array.from({ length: size }, (_, at) => at)
      : Array.from(rng(seed, "examples", epoch).permutation(size));
  const fields = fieldsOf(model, loss);
  for (let step = start; step * batchSize < size; step++) {
    const rows = order.slice(step * batchSize, (step + 1) * batchSize);
    const examples = await Promise.all(rows.map((row) => train.at(row)));
    const axes: Record<string, number> = { batch: batchSize };
    const feeds = fields.map(({ field, feed, read }) => {
      const tensors = examples.map((example, at) => read(example) ?? missing(field.name, rows[at] as number));
      return [feed, stackField(field, tensors, batchSize, buckets, axes)] as const;
    });
    const weights = Float32Array.from({ length: batchSize }, (_, at) => (at < rows.length ? 1 : 0));
    yield {
      shape: axes,
      feeds: {
        ...Object.fromEntries(feeds),
        [ROW_WEIGHTS]: { dtype: "float32", shape: [batchSize], data: weights },
      },
      count: examples.reduce((sum, example) => sum + (loss.count?.(example) ?? 1), 0),
      size: rows.length,
      state: { epoch, step: step + 1 },
      rows,
    };
  }
}

interface FedField {
  readonly field: Field;
  readonly feed: string;
  read(example: TensorExample): Tensor | undefined;
}

/** Inputs with a default that no example gives are filled in; their shapes follow the axes of those given before. */
const fieldsOf = (model: TensorModel, loss: TensorLoss): FedField[] => [
  ...model.inputs.map(
    (spec): FedField => ({
      field: spec.fill === undefined ? spec : { ...spec, pad: spec.fill, optional: true },
      feed: spec.name,
      read: ({ inputs }) => inputs[spec.name] ?? (spec.fill === undefined ? undefined : emptyOf(spec)),
    }),
  ),
  ...loss.targets.map(
    (field): FedField => ({
      field,
      feed: targetName(field.name),
      read: ({ targets }) => targets[field.name],
    }),
  ),
];

/** A tensor of no elements: all of it is padding. */
const emptyOf = ({ dtype, shape }: InputSpec): Tensor =>
  ({ dtype, shape: shape.slice(1).map(() => 0), data: [] }) as unknown as Tensor;

function missing(name: string, row: number): never {
  throw new TunesmithError("data-invalid", `example ${row} has no '${name}'`, {
    fix: "give every example the same inputs and targets",
  });
}

function lossGraph(model: TensorModel, loss: TensorLoss, shape: StepShape, training: boolean): LossGraph {
  const values = Object.fromEntries(
    model.inputs.map((spec) => [spec.name, input(spec.name, spec.dtype, inputShape(model, spec, shape))]),
  );
  const pass = model.build({ values, training });
  const targets = Object.fromEntries(
    loss.targets.map(({ name, dtype, shape: axes }) => {
      const dims = axes.map((dim) => (typeof dim === "number" ? dim : (shape[dim] ?? 1)));
      return [name, input(targetName(name), dtype, dims)];
    }),
  );
  const rowWeights = input(ROW_WEIGHTS, "float32", [shape.batch as number]);
  const outputs = Object.fromEntries(
    (loss.outputs ?? []).flatMap((name) => {
      const value = pass.values[name];
      return value ? [[name, value] as const] : [];
    }),
  );
  const sum = ops.reshape(loss.sum({ outputs: pass.values, targets, rowWeights }), []);
  return { loss: sum, outputs, passes: [pass] };
}
