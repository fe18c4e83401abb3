import { makeNode } from "../create.js";
import { intAttr, stringAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Node, Value } from "../types.js";
import type { DecompositionTable } from "./types.js";

/** -weight[target]·logProbability[target], averaged by the weights that count. Scores are `[N, C, ...]`. */
function nll(logProbabilities: Value, target: Value, weight: Value | undefined, node: Node): Value {
  const ignored = node.attrs.ignore_index ? intAttr(node.attrs, "ignore_index", 0) : undefined;
  const valid = ignored === undefined ? undefined : ops.not(ops.equal(target, ignored));
  const safe = valid ? ops.where(valid, target, 0) : target;
  const picked = ops.squeeze(ops.gatherElements(logProbabilities, ops.unsqueeze(safe, 1), 1), 1);
  let factor = weight && ops.gather(weight, safe);
  if (valid) {
    const mask = ops.cast(valid, logProbabilities.dtype);
    factor = factor ? ops.mul(factor, mask) : mask;
  }
  const each = ops.neg(factor ? ops.mul(picked, factor) : picked);
  const reduction = stringAttr(node.attrs, "reduction", "mean");
  if (reduction === "none") return each;
  const total = ops.reduceSum(each, undefined, false);
  if (reduction === "sum") return total;
  return factor
    ? ops.div(total, ops.reduceSum(factor, undefined, false))
    : ops.reduceMean(each, undefined, false);
}

export const losses: DecompositionTable = {
  NegativeLogLikelihoodLoss: ([input, target, weight], node) => [
    nll(input as Value, target as Value, weight, node),
  ],
  SoftmaxCrossEntropyLoss: ([scores, labels, weight], node) => {
    const logProbabilities = makeNode("LogSoftmax", [scores], { axis: { i: 1 } }).outputs[0] as Value;
    return [nll(logProbabilities, labels as Value, weight, node), logProbabilities];
  },
};
