import { ops, type Value } from "../../graph/index.js";
import type { LossInputs, TensorExample, TensorLoss } from "../tensor-objective.js";
import { IGNORED } from "./tokens.js";

export interface CtcOptions {
  /** Output with scores `[batch, frames, classes]`. Default `logits`. */
  readonly output?: string;
  /** Class of "nothing here". Default 0. */
  readonly blank?: number;
}

/** log 0, small enough to vanish in a sum and finite, so that no gradient is NaN. */
const NEVER = -1e30;

/**
 * Connectionist temporal classification (Graves et al. 2006): −log of the probability of all alignments of the labels with the
 * frames. Examples give `labels` int64 `[labels]` (without the blank) and `frames` int64, a scalar: how many frames count.
 * Mean over examples. The recursion over frames is laid out in the graph, in log space.
 */
export function ctc({ output = "logits", blank = 0 }: CtcOptions = {}): TensorLoss {
  return {
    name: "ctc",
    targets: [
      { name: "labels", dtype: "int64", shape: ["batch", "labels"], pad: IGNORED },
      { name: "frames", dtype: "int64", shape: ["batch"] },
    ],
    outputs: [output],
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const losses = ctcLoss(
        outputs[output] as Value,
        targets.labels as Value,
        targets.frames as Value,
        blank,
      );
      // A row that fills the batch up has no frames; its loss is nothing, not 0 times something huge.
      return ops.reduceSum(ops.where(ops.greater(rowWeights, 0), losses, 0), undefined, false);
    },
  };
}

/** Frames and labels of an example must fit: a frame per label, and one between equal neighbours. */
export function ctcFits({ targets }: TensorExample): boolean {
  const labels = [...((targets.labels?.data ?? []) as BigInt64Array)];
  const repeats = labels.filter((label, at) => at > 0 && label === labels[at - 1]).length;
  return labels.length + repeats <= Number(targets.frames?.data[0] ?? 0);
}

/** Losses `[batch]` of scores `[batch, frames, classes]`, labels `[batch, labels]` and frame counts `[batch]`. */
export function ctcLoss(scores: Value, labels: Value, frames: Value, blank = 0): Value {
  const [batch, steps] = scores.shape as readonly [number, number, number];
  const most = labels.shape[1] as number;
  const states = 2 * most + 1;
  const known = ops.max(labels, 0);
  // blank, label, blank, label, ..., blank
  const spread = ops.reshape(
    ops.concat([ops.unsqueeze(ops.add(ops.mul(known, 0), blank), 2), ops.unsqueeze(known, 2)], 2),
    [batch, 2 * most],
  );
  const path = ops.concat([spread, ops.full([batch, 1], blank, "int64")], 1);
  const index = ops.expand(ops.unsqueeze(path, 1), [batch, steps, states]);
  const emitted = ops.gatherElements(ops.logSoftmax(scores), index, 2);
  const at = (step: number) => ops.squeeze(ops.slice(emitted, 1, step, step + 1), 1);
  const never = (width: number) => ops.full([batch, width], NEVER, "float32");
  const shifted = (x: Value, by: number) => ops.concat([never(by), ops.slice(x, 1, 0, states - by)], 1);
  // A label may follow another label at once, unless they are equal.
  const skips = skipPenalty(path, batch, states, blank);
  let alpha = ops.concat([ops.slice(at(0), 1, 0, Math.min(2, states)), never(Math.max(0, states - 2))], 1);
  for (let step = 1; step < steps; step++) {
    const ways = [alpha, shifted(alpha, 1), ops.add(shifted(alpha, 2), skips)];
    const arrived = ops.reduceLogSumExp(
      ops.concat(
        ways.map((way) => ops.unsqueeze(way, 2)),
        2,
      ),
      [2],
      false,
    );
    // Nothing is so unlikely that its logarithm leaves float32.
    const next = ops.max(ops.add(arrived, at(step)), NEVER);
    const counts = ops.unsqueeze(ops.greater(frames, ops.scalar(step, "int64")), 1);
    alpha = ops.where(counts, next, alpha);
  }
  const count = ops.reduceSum(ops.cast(ops.greaterOrEqual(labels, 0), "int64"), [1], true);
  const last = ops.gatherElements(alpha, ops.mul(count, 2), 1);
  const before = ops.gatherElements(alpha, ops.max(ops.sub(ops.mul(count, 2), 1), 0), 1);
  // Without labels both are the one state there is.
  const other = ops.where(ops.greater(count, 0), before, NEVER);
  return ops.neg(ops.reduceLogSumExp(ops.concat([last, other], 1), [1], false));
}

/** 0 where a state may be entered from two before it, else log 0; `[batch, states]`. */
function skipPenalty(path: Value, batch: number, states: number, blank: number): Value {
  const head = ops.full([batch, Math.min(2, states)], NEVER, "float32");
  if (states < 3) return head;
  const [now, earlier] = [ops.slice(path, 1, 2, states), ops.slice(path, 1, 0, states - 2)];
  const free = ops.and(ops.not(ops.equal(now, blank)), ops.not(ops.equal(now, earlier)));
  const rest = ops.mul(ops.sub(ops.cast(free, "float32"), 1), -NEVER);
  return ops.concat([head, rest], 1);
}
