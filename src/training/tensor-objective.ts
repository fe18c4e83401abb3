import { TunesmithError } from "../errors/index.js";
import { input, ops, type Value } from "../graph/index.js";
import { type InputSpec, inputShape, type TensorModel, type TensorOutputs } from "../models/index.js";
import type { Tensor } from "../tensor/index.js";
import { balancedOrder, type TaskBalance } from "./balanced-order.js";
import { type Field, stackField } from "./collate-fields.js";
import type { PlainData } from "./exact-json.js";
import { endlessOrder, epochOrder } from "./language-rows.js";
import { cachedPasses } from "./losses/gradient-cache.js";
import type { LayOptions, LossGraph, Objective, ScoreKeeper, StepBatch, StepShape } from "./objective.js";
import { recomputeBlocks } from "./recompute.js";

/** One example: tensors without the batch axis, by name of the model's input, or of the loss's target. */
export interface TensorExample {
  readonly inputs: Readonly<Record<string, Tensor>>;
  /** Inputs of the example's further rows, for losses over several: the second text, the rejected answer. */
  readonly more?: readonly Readonly<Record<string, Tensor>>[];
  readonly targets: Readonly<Record<string, Tensor>>;
}

/** Examples that may be made when they are needed: decoded images, sounds. */
export interface ExampleSource {
  readonly size: number;
  /** `epoch` is given while training: what is drawn at random (masks, crops) may follow it. */
  at(index: number, epoch?: number): TensorExample | Promise<TensorExample>;
  /** Whether an example differs from epoch to epoch. Default false. */
  readonly varies?: boolean;
  /** Tells one set of examples from another, for resuming. */
  readonly hash: string;
}

/** What a loss is computed from. */
export interface LossInputs {
  /** The model's outputs by name; with several rows per example, the rows of an example follow one another. */
  readonly outputs: Readonly<Record<string, Value>>;
  /** The examples' targets by name, with the batch axis. */
  readonly targets: Readonly<Record<string, Value>>;
  /** float32 `[batch]`, 0 for examples that only fill the batch up. */
  readonly rowWeights: Value;
}

export interface TensorLoss {
  readonly name: string;
  /** Rows of the model's batch that an example is. Default 1. */
  readonly rows?: number;
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
  /**
   * Rows of a forward pass; the batch is run in parts, each computed again in the backward pass (GradCache,
   * arXiv 2101.06983), so that a loss over a large batch needs the memory of a small one. Such a loss names in `outputs` what
   * it reads. Default: the whole batch at once.
   */
  readonly forwardRows?: number | undefined;
  /** Tasks of `train`: every batch then holds equally many examples of each. Default: examples in any order. */
  readonly balance?: TaskBalance | undefined;
  /** Identity of the run beyond the data. */
  readonly identity?: Readonly<Record<string, PlainData>>;
}

const ROW_WEIGHTS = "row_weights";
const targetName = (name: string) => `target/${name}`;

/**
 * Any loss over the outputs of a tensor model. Examples are stacked, padded per axis to the longest of the batch or to a
 * bucket; the last batch of an epoch is filled up with rows that count nothing.
 *
 * Throws `data-empty`, `data-invalid` naming the example whose tensors do not fit; with `recompute`, `config-invalid` for a
 * model without recognisable blocks.
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
  const balanced = balanceOf(options);
  if (train.size === 0) {
    throw new TunesmithError("data-empty", "there is nothing to train on", {
      fix: "check the dataset's report",
    });
  }
  return {
    name: loss.name,
    model,
    identity: {
      ...{ batchSize, examples: train.size, dataHash: train.hash, ...identity },
      ...(balanced ? { tasks: [...balanced.names] } : {}),
    },
    lossGraph: (shape, how) => lossGraph(model, options, shape, how),
    batches: (from, seed) =>
      balanced
        ? withFeeds(
            batchesOf(model, { ...options, batchSize: balanced.rows }, balanced.batches(from, seed), true),
            balanced.feeds(loss.rows),
          )
        : batchesOf(model, options, endlessOrder(train.size, batchSize, from, seed), true),
    ...(validation && validation.size > 0
      ? {
          validation: () =>
            batchesOf(
              model,
              { ...options, train: validation },
              epochOrder(validation.size, batchSize, 0, undefined),
              false,
            ),
        }
      : {}),
    scores: loss.scores,
  };
}

/** The order of batches that hold all tasks alike, where that is asked for. */
function balanceOf({ balance, batchSize, train, forwardRows }: TensorObjectiveOptions) {
  if (!balance) return undefined;
  if (forwardRows !== undefined) {
    throw new TunesmithError("config-invalid", "forwardRows would tear the tasks of a batch apart", {
      fix: "leave forwardRows out, or balance",
    });
  }
  return balancedOrder(balance, { batchSize, rows: train.size });
}

async function* withFeeds(
  batches: AsyncGenerator<StepBatch>,
  more: Readonly<Record<string, Tensor>>,
): AsyncGenerator<StepBatch> {
  for await (const batch of batches) yield { ...batch, feeds: { ...batch.feeds, ...more } };
}

type Order = ReturnType<typeof endlessOrder>;

async function* batchesOf(
  model: TensorModel,
  { train, batchSize, loss, buckets = {} }: TensorObjectiveOptions,
  order: Order,
  training: boolean,
): AsyncGenerator<StepBatch> {
  const fields = fieldsOf(model, loss);
  const { rows: perExample = 1 } = loss;
  for (const { items, state } of order) {
    const examples = await Promise.all(
      items.map((item) => train.at(item, training ? state.epoch : undefined)),
    );
    const axes: Record<string, number> = { batch: batchSize };
    const feeds = fields.map(({ field, feed, perRow, read }) => {
      const tensors = examples.flatMap((example, at) => {
        const found = perRow ? [example.inputs, ...(example.more ?? [])].map(read) : [read(example.targets)];
        if (found.length !== (perRow ? perExample : 1))
          wrongRows(items[at] as number, found.length, perExample);
        return found.map((value) => value ?? missing(field.name, items[at] as number));
      });
      const rows = perRow ? batchSize * perExample : batchSize;
      return [feed, stackField(field, tensors, rows, buckets, axes)] as const;
    });
    const weights = Float32Array.from({ length: batchSize }, (_, at) => (at < items.length ? 1 : 0));
    const names = perExample === 1 && !train.varies ? { rows: items } : {};
    yield {
      shape: axes,
      feeds: {
        ...Object.fromEntries(feeds),
        [ROW_WEIGHTS]: { dtype: "float32", shape: [batchSize], data: weights },
      },
      count: examples.reduce((sum, example) => sum + (loss.count?.(example) ?? 1), 0),
      size: items.length,
      state,
      ...names,
    };
  }
}

interface FedField {
  readonly field: Field;
  readonly feed: string;
  /** Given for every row, not for every example. */
  readonly perRow: boolean;
  read(given: Readonly<Record<string, Tensor>>): Tensor | undefined;
}

/** Inputs with a default that no example gives are filled in; their shapes follow the axes of those given before. */
const fieldsOf = (model: TensorModel, loss: TensorLoss): FedField[] => [
  ...model.inputs.map(
    (spec): FedField => ({
      field: spec,
      feed: spec.name,
      perRow: true,
      read: (inputs) => inputs[spec.name] ?? (spec.fill === undefined ? undefined : emptyOf(spec)),
    }),
  ),
  ...loss.targets.map(
    (field): FedField => ({
      field,
      feed: targetName(field.name),
      perRow: false,
      read: (targets) => targets[field.name],
    }),
  ),
];

/** A tensor of no elements: all of it is padding. */
const emptyOf = ({ dtype, shape }: InputSpec): Tensor =>
  ({ dtype, shape: shape.slice(1).map(() => 0), data: [] }) as unknown as Tensor;

function wrongRows(row: number, found: number, wanted: number): never {
  throw new TunesmithError("data-invalid", `example ${row} has ${found} rows, the loss reads ${wanted}`, {
    fix: "give every example as many rows as the loss has: `inputs` and `more`",
  });
}

function missing(name: string, row: number): never {
  throw new TunesmithError("data-invalid", `example ${row} has no '${name}'`, {
    fix: "give every example the same inputs and targets",
  });
}

function lossGraph(
  model: TensorModel,
  { loss, forwardRows }: TensorObjectiveOptions,
  shape: StepShape,
  { training, recompute = false }: LayOptions,
): LossGraph {
  const rows = (shape.batch as number) * (loss.rows ?? 1);
  const values = Object.fromEntries(
    model.inputs.map((spec) => {
      // The first axis is the rows', whatever the model calls it.
      const [, ...rest] = inputShape(model, spec, shape);
      return [spec.name, input(spec.name, spec.dtype, [rows, ...rest])];
    }),
  );
  const wanted = loss.outputs ?? [];
  const parts = forwardRows !== undefined && forwardRows < rows;
  if (training && recompute && parts) {
    throw new TunesmithError("config-invalid", "recompute does nothing with forwardRows", {
      fix: "leave recompute out: the parts of a batch are computed again already",
    });
  }
  const { passes, outputs: given } = parts
    ? cachedPasses(model, values, { rows, forwardRows, training, wanted })
    : whole(model.build({ values, training }), training && recompute);
  const targets = Object.fromEntries(
    loss.targets.map(({ name, dtype, shape: axes }) => {
      const dims = axes.map((dim) => (typeof dim === "number" ? dim : (shape[dim] ?? 1)));
      return [name, input(targetName(name), dtype, dims)];
    }),
  );
  const rowWeights = input(ROW_WEIGHTS, "float32", [shape.batch as number]);
  const outputs = Object.fromEntries(
    wanted.flatMap((name) => {
      const value = given[name];
      return value ? [[name, value] as const] : [];
    }),
  );
  const sum = ops.reshape(loss.sum({ outputs: given, targets, rowWeights }), []);
  return { loss: sum, outputs, passes };
}

function whole(built: TensorOutputs, recompute: boolean | number) {
  const pass = recompute ? recomputeBlocks(built, recompute === true ? undefined : recompute) : built;
  return { passes: [pass], outputs: pass.values };
}
