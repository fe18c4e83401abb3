import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import type { LossInputs, TensorLoss } from "../tensor-objective.js";
import { classKeeper, multiLabelKeeper } from "./keepers.js";

export interface ClassLossOptions {
  /** Output that holds the class scores `[batch, classes]`. Default `logits`. */
  readonly output?: string;
  /** Share of the target spread over all classes. In [0, 1). Default 0. */
  readonly labelSmoothing?: number;
  /** What an example of each class counts. Default 1 each. */
  readonly classWeights?: readonly number[] | undefined;
  /** Focusing parameter of the focal loss (arXiv 1708.02002); 0 is cross-entropy. Default 0. */
  readonly focalGamma?: number;
}

const sumOf = (values: Value): Value => ops.reduceSum(values, undefined, false);

/** −log p of the label, smoothed and focused, `[rows, 1]`; `labels` int64 `[rows, 1]`. */
export function labelLoss(
  logits: Value,
  labels: Value,
  { labelSmoothing = 0, focalGamma = 0 }: ClassLossOptions = {},
): Value {
  const logs = ops.logSoftmax(logits);
  const picked = ops.gatherElements(logs, labels, 1);
  const focused =
    focalGamma === 0 ? picked : ops.mul(picked, ops.pow(ops.sub(ops.scalar(1), ops.exp(picked)), focalGamma));
  if (labelSmoothing === 0) return ops.neg(focused);
  const even = ops.reduceMean(logs, [1], true);
  return ops.neg(ops.add(ops.mul(focused, 1 - labelSmoothing), ops.mul(even, labelSmoothing)));
}

/** Weights of the labels' classes, `[rows, 1]`. */
export const weightsOf = (labels: Value, weights: readonly number[]): Value =>
  ops.gather(constant(tensor("float32", [weights.length], Float32Array.from(weights))), labels);

/**
 * Cross-entropy over classes; examples give `label` int64, a scalar. Mean over examples (not over class weights, so
 * that micro-batches add up).
 *
 * @example
 * ```ts
 * import { classification } from "tunesmith/training";
 * const loss = classification({ labelSmoothing: 0.1 });
 * console.log(loss.name);
 * ```
 */
export function classification(options: ClassLossOptions = {}): TensorLoss {
  const { output = "logits", classWeights } = options;
  return {
    name: "classification",
    targets: [{ name: "label", dtype: "int64", shape: ["batch"] }],
    outputs: [output],
    scores: () => classKeeper(output),
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const labels = ops.unsqueeze(targets.label as Value, 1);
      const losses = labelLoss(outputs[output] as Value, labels, options);
      const counted = classWeights ? ops.mul(losses, weightsOf(labels, classWeights)) : losses;
      return sumOf(ops.mul(ops.squeeze(counted, 1), rowWeights));
    },
  };
}

/**
 * Binary cross-entropy of every class by itself; examples give `labels` float32 `[classes]` of zeros and ones. Mean over
 * examples and classes.
 */
export function multiLabel({ output = "logits" }: Pick<ClassLossOptions, "output"> = {}): TensorLoss {
  return {
    name: "multi-label",
    targets: [{ name: "labels", dtype: "float32", shape: ["batch", "classes"] }],
    outputs: [output],
    scores: () => multiLabelKeeper(output),
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const [x, y] = [outputs[output] as Value, targets.labels as Value];
      // softplus(x) − x·y is −y·log σ(x) − (1 − y)·log(1 − σ(x)), without its overflow.
      const losses = ops.reduceMean(ops.sub(ops.softplus(x), ops.mul(x, y)), [1], false);
      return sumOf(ops.mul(losses, rowWeights));
    },
  };
}
