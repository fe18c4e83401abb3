import { ops, type Value } from "../../graph/index.js";
import { marginScores } from "../objectives/preference.js";
import { negLogSigmoid } from "../objectives/preference-losses.js";
import type { LossInputs, TensorLoss } from "../tensor-objective.js";

export interface RewardOptions {
  /** Output with one number per row. Default `logits`. */
  readonly output?: string;
  /** Weight of (r(c) + r(r))², which keeps rewards around 0 (arXiv 2312.09244). Default 0. */
  readonly centering?: number;
}

/**
 * A reward model by Bradley and Terry: −log σ(r(chosen) − r(rejected)). Examples are two rows, the chosen answer and the
 * rejected one, through a model that gives a number per row (`sequenceHead` of a language model).
 *
 * @example
 * ```ts
 * import { type CausalLm, sequenceHead } from "tunesmith/models";
 * import { type ExampleSource, reward, tensorObjective } from "tunesmith/training";
 * export const objective = (lm: CausalLm, train: ExampleSource) =>
 *   tensorObjective(sequenceHead(lm, { labels: 1 }), { train, batchSize: 4, loss: reward() });
 * ```
 */
export function reward({ output = "logits", centering = 0 }: RewardOptions = {}): TensorLoss {
  return {
    name: "reward",
    rows: 2,
    targets: [],
    outputs: [output],
    scores: () => {
      const margins = marginScores();
      return {
        add(outputs, batch) {
          const { data } = outputs[output] as { data: Float32Array };
          const apart = Float32Array.from(
            { length: data.length / 2 },
            (_, at) => (data[2 * at] as number) - (data[2 * at + 1] as number),
          );
          margins.add({ margins: { dtype: "float32", shape: [apart.length], data: apart } }, batch);
        },
        result: margins.result,
      };
    },
    sum({ outputs, rowWeights }: LossInputs) {
      const pairs = ops.reshape(outputs[output] as Value, [rowWeights.shape[0] as number, 2]);
      const [chosen, rejected] = ops.split(pairs, [1, 1], 1) as [Value, Value];
      const each = negLogSigmoid(ops.sub(chosen, rejected));
      const centred =
        centering === 0 ? each : ops.add(each, ops.mul(ops.square(ops.add(chosen, rejected)), centering));
      return ops.reduceSum(ops.mul(ops.squeeze(centred, 1), rowWeights), undefined, false);
    },
  };
}
