import { vjp } from "../autodiff/index.js";
import { TunesmithError } from "../errors/index.js";
import { type Graph, input, makeGraph, ops, reach, substitute, type Value } from "../graph/index.js";
import { inputsOf, type Model, noiseOf, type Parameter } from "../models/index.js";
import type { LayOptions, LossGraph, Objective, StepShape } from "./objective.js";

/** A graph that computes the loss of one batch, and the gradients of the trainable parameters it reaches. */
export interface StepGraph {
  readonly shape: StepShape;
  readonly graph: Graph;
  /** Trainable parameters with a gradient output `grad/<name>`. */
  readonly trained: readonly Parameter[];
}

export interface StepGraphOptions extends Omit<LayOptions, "training"> {
  /** Frozen weights with a gradient output `weight/<name>`. */
  readonly weights?: readonly string[];
}

/** Names of the scalar inputs by which a micro-batch counts. */
export const SCALE = "loss_scale";
export const SHARE = "batch_share";

/**
 * The training graph of an objective for one batch shape. Besides the batch and the parameters it reads `loss_scale`, one over
 * the items of the whole update, and `batch_share`, this batch's part of them. Throws `zero-update` naming a trainable
 * parameter that the loss does not depend on, `op-not-differentiable` from differentiation.
 */
export function stepGraph(objective: Objective, shape: StepShape, options: StepGraphOptions = {}): StepGraph {
  const { weights = [], ...how } = options;
  const laid = objective.lossGraph(shape, { ...how, training: true });
  return withGradients(objective.model, { loss: laid.loss, penalty: penaltyOf(laid) }, shape, weights);
}

/** What the methods of all passes add to the loss. */
function penaltyOf({ passes }: LossGraph): Value | undefined {
  const terms = passes.flatMap(({ penalty }) => penalty ?? []);
  return terms.length > 0 ? terms.reduce((a, b) => ops.add(a, b)) : undefined;
}

interface Losses {
  readonly loss: Value;
  readonly penalty: Value | undefined;
}

function withGradients(
  model: Model,
  { loss, penalty }: Losses,
  shape: StepShape,
  weights: readonly string[],
): StepGraph {
  const trained = [...model.parameters.values()].filter((parameter) => parameter.trainable);
  if (trained.length === 0) {
    throw new TunesmithError("zero-update", "the model has no trainable parameter", {
      fix: "adapt it first, e.g. adapt(model, lora({ rank: 8 }))",
    });
  }
  const scale = input(SCALE, "float32", []);
  const share = input(SHARE, "float32", []);
  const gradients = vjp(
    [{ output: loss, gradient: scale }, ...(penalty ? [{ output: penalty, gradient: share }] : [])],
    [...trained.map(({ value }) => value), ...weights.map((name) => weightNamed(model, name))],
  );
  checkReached(trained, gradients);
  const scaled = ops.mul(loss, scale);
  const outputs: [string, Value][] = [
    ["loss", penalty ? ops.add(scaled, ops.mul(penalty, share)) : scaled],
    ...trained.map(({ name }, index): [string, Value] => [`grad/${name}`, gradients[index] as Value]),
    ...weights.map((name, index): [string, Value] => [
      `weight/${name}`,
      gradients[trained.length + index] ?? ops.zerosLike(weightNamed(model, name)),
    ]),
  ];
  const inputs = inputsOf(outputs.map(([, value]) => value));
  return { graph: makeGraph("train", inputs, outputs), trained, shape };
}

function weightNamed(model: Model, name: string): Value {
  const weight = model.weights.get(name);
  if (weight) return weight;
  throw new TunesmithError("tensor-not-found", `the model has no weight '${name}'`, {
    fix: "ask for gradients of weights by their names in the file",
  });
}

function checkReached(trained: readonly Parameter[], gradients: readonly (Value | undefined)[]): void {
  const idle = trained.filter((_, index) => gradients[index] === undefined).map(({ name }) => name);
  if (idle.length === 0) return;
  throw new TunesmithError(
    "zero-update",
    `the loss does not depend on ${idle.length} trainable tensors: ${idle.slice(0, 3).join(", ")}`,
    { fix: "switch their adapter on, or freeze them", details: { parameters: idle } },
  );
}

/** The evaluation graph: the summed loss, and the outputs scores are made of. */
export function evaluationGraph(objective: Objective, shape: StepShape): StepGraph {
  const { loss, outputs = {} } = objective.lossGraph(shape, { training: false });
  const named: [string, Value][] = [["loss", loss], ...Object.entries(outputs)];
  const inputs = inputsOf(named.map(([, value]) => value));
  return { graph: makeGraph("evaluate", inputs, named), trained: [], shape };
}

/** A training graph cut at the last block boundary below which nothing depends on a parameter. */
export interface PrefixGraphs {
  /** Computes `prefix` from the batch. */
  readonly prefix: Graph;
  /** The training step from there on; reads the batch and `prefix`. */
  readonly suffix: StepGraph;
  /** Index of the first block of the suffix. */
  readonly block: number;
}

/** Splits the step so that activations of a frozen lower part can be kept; undefined when nothing is frozen below. */
export function prefixGraphs(
  objective: Objective,
  shape: StepShape,
  options: Omit<LayOptions, "training"> = {},
): PrefixGraphs | undefined {
  const { model } = objective;
  const laid = objective.lossGraph(shape, { ...options, training: true });
  const boundaries = laid.passes.length === 1 ? (laid.passes[0]?.boundaries ?? []) : [];
  const penaltyValue = penaltyOf(laid);
  const isFrozen = (value: Value) =>
    reach([value]).values.every(
      (below) =>
        below.source.kind !== "input" ||
        (!model.parameters.has(String(below.name)) && noiseOf(below) === undefined),
    );
  const block = boundaries.findLastIndex(isFrozen);
  const boundary = boundaries[block];
  if (block <= 0 || !boundary) return undefined;
  const prefix = input("prefix", boundary.dtype, boundary.shape);
  const named: [string, Value][] = [["loss", laid.loss]];
  if (penaltyValue) named.push(["penalty", penaltyValue]);
  const cut = substitute(makeGraph("loss", [], named), new Map([[boundary, prefix]]));
  const above = { loss: cut.outputs.get("loss") as Value, penalty: cut.outputs.get("penalty") };
  return {
    prefix: makeGraph("prefix", inputsOf([boundary]), [["prefix", boundary]]),
    suffix: withGradients(model, above, shape, []),
    block,
  };
}
