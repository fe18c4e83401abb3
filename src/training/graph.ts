import { vjp } from "../autodiff/index.js";
import { TunesmithError } from "../errors/index.js";
import { type Graph, input, makeGraph, ops, reach, substitute, type Value } from "../graph/index.js";
import { type CausalLm, inputsOf, type LmOutputs, type Parameter } from "../models/index.js";
import { crossEntropy, crossEntropyForward } from "./losses/cross-entropy.js";
import { recomputeBlocks } from "./recompute.js";

export interface StepShape {
  readonly batch: number;
  readonly length: number;
}

export interface StepOptions extends StepShape {
  /** Rows of logits that exist at one time. Default: as many as keep them under 16 MB, at least 16. */
  readonly chunkRows?: number;
  /** Recompute each block in the backward pass: about half the activation memory for about a third more time. */
  readonly recompute?: boolean;
}

/** A graph that computes the loss of one batch, and the gradients of the trainable parameters it reaches. */
export interface StepGraph extends StepShape {
  readonly graph: Graph;
  /** Trainable parameters with a gradient output `grad/<name>`. */
  readonly trained: readonly Parameter[];
}

/** Graph inputs of a batch, all `[batch, length]`: what a data loader gives. */
export interface StepInputs {
  /** int32 */
  readonly ids: Value;
  /** int32, restarting in every packed document. */
  readonly positions: Value;
  /** int32, 0 for padding. */
  readonly segments: Value;
  /** int32, the next token; −1 where there is none. */
  readonly labels: Value;
  /** float32, what each label counts; the caller divides by the number of tokens of the whole step. */
  readonly weights: Value;
}

const CHUNK_BYTES = 16 * 1024 * 1024;

export function stepInputs({ batch, length }: StepShape): StepInputs {
  const matrix = (name: string, dtype: "int32" | "float32") => input(name, dtype, [batch, length]);
  return {
    ids: matrix("ids", "int32"),
    positions: matrix("positions", "int32"),
    segments: matrix("segments", "int32"),
    labels: matrix("labels", "int32"),
    weights: matrix("weights", "float32"),
  };
}

const chunkRowsFor = (model: CausalLm, options: StepOptions): number => {
  const tokens = options.batch * options.length;
  return Math.min(
    tokens,
    options.chunkRows ?? Math.max(16, Math.floor(CHUNK_BYTES / (4 * model.sizes.vocabSize))),
  );
};

/** Forward pass and loss of one batch over given step inputs. */
export function lossOf(
  model: CausalLm,
  inputs: StepInputs,
  options: StepOptions,
  training: boolean,
): { loss: Value; outputs: LmOutputs } {
  const long = (value: Value) => ops.cast(value, "int64");
  const built = model.build({
    ids: long(inputs.ids),
    positions: long(inputs.positions),
    segments: inputs.segments,
    training,
  });
  const outputs = training && options.recompute ? recomputeBlocks(built) : built;
  const rows = options.batch * options.length;
  const parts = {
    hidden: outputs.hidden,
    logits: outputs.logits,
    labels: ops.reshape(long(inputs.labels), [rows]),
    weights: ops.reshape(inputs.weights, [rows]),
    chunkRows: chunkRowsFor(model, options),
  };
  return { loss: training ? crossEntropy(parts) : crossEntropyForward(parts), outputs };
}

/**
 * The training graph of a model for one batch shape. Throws `zero-update` naming a trainable parameter that the loss
 * does not depend on, `op-not-differentiable` from differentiation.
 */
export function trainingGraph(model: CausalLm, options: StepOptions): StepGraph {
  const { loss } = lossOf(model, stepInputs(options), options, true);
  return withGradients(model, loss, options);
}

export function withGradients(model: CausalLm, loss: Value, shape: StepShape): StepGraph {
  const trained = [...model.parameters.values()].filter((parameter) => parameter.trainable);
  if (trained.length === 0) {
    throw new TunesmithError("zero-update", "the model has no trainable parameter", {
      fix: "adapt it first, e.g. adapt(model, lora({ rank: 8 }))",
    });
  }
  const seed = ops.full(loss.shape, 1, loss.dtype);
  const gradients = vjp(
    [{ output: loss, gradient: seed }],
    trained.map(({ value }) => value),
  );
  const idle = trained.filter((_, index) => gradients[index] === undefined);
  if (idle[0]) {
    throw new TunesmithError(
      "zero-update",
      `the loss does not depend on ${idle.length} trainable tensors: ${idle
        .slice(0, 3)
        .map(({ name }) => name)
        .join(", ")}`,
      {
        fix: "switch their adapter on, or freeze them",
        details: { parameters: idle.map(({ name }) => name) },
      },
    );
  }
  const outputs: [string, Value][] = [
    ["loss", loss],
    ...trained.map(({ name }, index): [string, Value] => [`grad/${name}`, gradients[index] as Value]),
  ];
  const values = outputs.map(([, value]) => value);
  return {
    graph: makeGraph("train", inputsOf(values), outputs),
    trained,
    batch: shape.batch,
    length: shape.length,
  };
}

/** The evaluation graph: the loss alone. */
export function evaluationGraph(model: CausalLm, options: StepOptions): StepGraph {
  const { loss } = lossOf(model, stepInputs(options), options, false);
  return {
    graph: makeGraph("evaluate", inputsOf([loss]), [["loss", loss]]),
    trained: [],
    batch: options.batch,
    length: options.length,
  };
}

/** A training graph cut at the last block boundary below which nothing depends on a parameter. */
export interface PrefixGraphs {
  /** Computes `prefix` `[tokens, hidden]` from the batch. */
  readonly prefix: Graph;
  /** The training step from there on; reads the batch and `prefix`. */
  readonly suffix: StepGraph;
  /** Index of the first block of the suffix. */
  readonly block: number;
}

/** Splits the step so that activations of a frozen lower part can be kept; undefined when nothing is frozen below. */
export function prefixGraphs(model: CausalLm, options: StepOptions): PrefixGraphs | undefined {
  const { loss, outputs } = lossOf(model, stepInputs(options), options, true);
  const fed = new Set(["ids", "positions", "segments"]);
  const isFrozen = (value: Value) =>
    reach([value]).values.every(({ source, name }) => source.kind !== "input" || fed.has(String(name)));
  const block = outputs.boundaries.findLastIndex(isFrozen);
  const boundary = outputs.boundaries[block];
  if (block <= 0 || !boundary) return undefined;
  const prefix = input("prefix", "float32", boundary.shape);
  const whole = makeGraph("loss", [], [["loss", loss]]);
  const cut = substitute(whole, new Map([[boundary, prefix]]));
  return {
    prefix: makeGraph("prefix", inputsOf([boundary]), [["prefix", boundary]]),
    suffix: withGradients(model, cut.outputs.get("loss") as Value, options),
    block,
  };
}
