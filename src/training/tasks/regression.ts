import { ops, type Value } from "../../graph/index.js";
import type { Field } from "../collate-fields.js";
import type { LossInputs, TensorLoss } from "../tensor-objective.js";
import { numberKeeper } from "./keepers.js";

export interface RegressionOptions {
  /** Output that is compared. Default `logits`. */
  readonly output?: string;
  /** Shape of the target without the batch axis: `[]` for a number, `["horizon", 7]` for a forecast. Default `[]`. */
  readonly shape?: readonly (number | string)[];
  /** Error: squared, absolute, or Huber's. Default `mse`. */
  readonly error?: "mse" | "mae" | "huber";
  /** Where Huber's error becomes linear. Default 1. */
  readonly delta?: number;
}

function errorOf(difference: Value, { error = "mse", delta = 1 }: RegressionOptions): Value {
  if (error === "mse") return ops.square(difference);
  const size = ops.abs(difference);
  if (error === "mae") return size;
  const small = ops.mul(ops.square(difference), 0.5);
  return ops.where(ops.lessOrEqual(size, delta), small, ops.mul(ops.sub(size, delta / 2), delta));
}

/**
 * Numbers from numbers; examples give `value` float32. Mean over the numbers of an example, then over examples.
 *
 * @example
 * ```ts
 * import { regression } from "tunesmith/training";
 * const forecast = regression({ output: "prediction_outputs", shape: [96, 7] });
 * console.log(forecast.name);
 * ```
 */
export function regression(options: RegressionOptions = {}): TensorLoss {
  const { output = "logits", shape = [] } = options;
  const field: Field = { name: "value", dtype: "float32", shape: ["batch", ...shape] };
  return {
    name: "regression",
    targets: [field],
    outputs: [output],
    scores: () => numberKeeper(output),
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const target = targets.value as Value;
      const predicted = ops.reshape(outputs[output] as Value, target.shape);
      const rows = ops.reshape(errorOf(ops.sub(predicted, target), options), [target.shape[0] ?? 1, -1]);
      return ops.reduceSum(ops.mul(ops.reduceMean(rows, [1], false), rowWeights), undefined, false);
    },
  };
}
