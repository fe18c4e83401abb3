import type { Tensor } from "../../tensor/index.js";
import type { ScoreKeeper } from "../objective.js";

/** Share of examples whose highest score is the label's. */
export function classScores(output: string): ScoreKeeper {
  let [right, count] = [0, 0];
  return {
    add(outputs, { feeds, size }) {
      const logits = outputs[output] as Tensor;
      const labels = feeds["target/label"]?.data as BigInt64Array;
      const classes = logits.shape.at(-1) as number;
      for (let row = 0; row < size; row++) {
        const scores = (logits.data as Float32Array).subarray(row * classes, (row + 1) * classes);
        if (BigInt(largestAt(scores)) === labels[row]) right++;
        count++;
      }
    },
    result: () => ({ accuracy: right / count }),
  };
}

function largestAt(scores: Float32Array): number {
  let best = 0;
  for (let at = 1; at < scores.length; at++) if ((scores[at] as number) > (scores[best] as number)) best = at;
  return best;
}
