import type { BatchState } from "../data/index.js";
import type { Value } from "../graph/index.js";
import type { Model, Outputs } from "../models/index.js";
import type { Tensor } from "../tensor/index.js";
import type { PlainData } from "./exact-json.js";

/** Sizes a step's graph is laid for, such as `{ batch: 8, length: 128 }`. */
export type StepShape = Readonly<Record<string, number>>;

/** A micro-batch: named tensors for the graph of its shape. */
export interface StepBatch {
  /** Batches of equal shape share a compiled session. */
  readonly shape: StepShape;
  /** By name of the graph's input. A frozen parameter's name, such as an adapter's switch, stands for it in this batch. */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** How many items its loss is the sum of: trained tokens, rows, pairs. */
  readonly count: number;
  /** Tokens or examples in it, for speed. */
  readonly size: number;
  /** Where the data stand after it. */
  readonly state: BatchState;
  /**
   * Names of its rows, the same every epoch: what kept activations are found by. Rows beyond them are padding. Absent when
   * rows differ from epoch to epoch.
   */
  readonly rows?: readonly (string | number)[];
}

export interface LossGraph {
  /** Scalar: the sum over what `count` counts. The loop divides by the count of a whole update. */
  readonly loss: Value;
  /** What scores are computed from, by name; read in evaluation only. */
  readonly outputs?: Readonly<Record<string, Value>>;
  /** Every forward pass laid, for their boundaries and for what methods add to the loss. */
  readonly passes: readonly Outputs[];
  /** float32 `[rows]`, 0 for padding: which rows of flattened activations are data. Absent: all. */
  readonly mask?: Value;
}

export interface LayOptions {
  readonly training: boolean;
  /** Keep little and compute the rest again in the backward pass: of all blocks, or of so many from the first. */
  readonly recompute?: boolean | number;
  /** Rows of logits that exist at one time, where an objective has such; instead of its own. */
  readonly chunkRows?: number | undefined;
}

/** Collects what an evaluation's batches give. */
export interface ScoreKeeper {
  add(outputs: Readonly<Record<string, Tensor>>, batch: StepBatch): void;
  result(): Readonly<Record<string, number>>;
}

/**
 * What a run minimises: batches of data, and the loss over them as a graph. The loop knows nothing else of a task; a new
 * objective is an object like this.
 */
export interface Objective<M extends Model = Model> {
  readonly name: string;
  readonly model: M;
  /** Lays the graph of a batch of `shape`. Its inputs are the batch's feeds and the model's parameters. */
  lossGraph(shape: StepShape, options: LayOptions): LossGraph;
  /** Training batches from a position on, without end; the same for the same seed. */
  batches(from: BatchState, seed: number): Iterator<StepBatch> | AsyncIterator<StepBatch>;
  /** What must be the same for a run to be continued. */
  readonly identity: Readonly<Record<string, PlainData>>;
  /** One pass over the held-out data; absent when there are none. */
  readonly validation?: (() => Iterable<StepBatch> | AsyncIterable<StepBatch>) | undefined;
  /** Scores beside the loss. */
  readonly scores?: (() => ScoreKeeper) | undefined;
}
