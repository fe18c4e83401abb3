import { ops, type Value } from "../../graph/index.js";
import type { LossInputs, TensorExample, TensorLoss } from "../tensor-objective.js";
import { type ClassLossOptions, labelLoss, weightsOf } from "./classification.js";
import { tokenKeeper } from "./keepers.js";

/** A label that does not count. */
export const IGNORED = -100;

/**
 * Cross-entropy of every labelled position: token classes, masked words, a decoder's next words. Examples give `labels` int64
 * `[length]`, −100 where there is none. Mean over labelled positions.
 *
 * @param options.names Names of the labels, for the scores.
 * @param axis Name of the axis that labels share with an input: `length`, or `decoder_length`.
 *
 * @example
 * ```ts
 * import { tokenLabels } from "tunesmith/training";
 * console.log(tokenLabels("length").name);
 * ```
 */
export function tokenLabels(
  axis: string,
  options: ClassLossOptions & { readonly names?: readonly string[] | undefined } = {},
): TensorLoss {
  const { output = "logits", classWeights } = options;
  return {
    name: "token-labels",
    targets: [{ name: "labels", dtype: "int64", shape: ["batch", axis], pad: IGNORED }],
    outputs: [output],
    scores: () => tokenKeeper(output, options.names),
    count: countLabels,
    sum({ outputs, targets }: LossInputs) {
      const logits = outputs[output] as Value;
      const classes = logits.shape.at(-1) as number;
      const labels = ops.reshape(targets.labels as Value, [-1, 1]);
      const counts = ops.cast(ops.greaterOrEqual(labels, 0), "float32");
      const losses = labelLoss(ops.reshape(logits, [-1, classes]), ops.max(labels, 0), options);
      const counted = classWeights ? ops.mul(counts, weightsOf(ops.max(labels, 0), classWeights)) : counts;
      return ops.reduceSum(ops.mul(losses, counted), undefined, false);
    },
  };
}

const countLabels = ({ targets }: TensorExample): number =>
  [...((targets.labels?.data ?? []) as BigInt64Array)].filter((label) => label >= 0n).length;

/** First and last token of an answer; examples give `start` and `end` int64 scalars. Mean of the two losses over examples. */
export function answerSpan(): TensorLoss {
  const position = (name: string) => ({ name, dtype: "int64", shape: ["batch"] }) as const;
  return {
    name: "answer-span",
    targets: [position("start"), position("end")],
    outputs: ["start_logits", "end_logits"],
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const part = (name: "start" | "end") => {
        const labels = ops.unsqueeze(targets[name] as Value, 1);
        return ops.squeeze(labelLoss(outputs[`${name}_logits`] as Value, labels), 1);
      };
      const losses = ops.mul(ops.add(part("start"), part("end")), 0.5);
      return ops.reduceSum(ops.mul(losses, rowWeights), undefined, false);
    },
  };
}
