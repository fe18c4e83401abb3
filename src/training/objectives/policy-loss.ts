import { ops, type Value } from "../../graph/index.js";

/** What a policy's loss is made of. */
export interface PolicyScores {
  /** Log-probabilities of the answers' tokens, float32 `[rows, length]`, 0 where there is none. */
  readonly logs: Value;
  /** The same under the policy that wrote the answers. */
  readonly old: Value;
  /** The same under the reference. */
  readonly reference?: Value | undefined;
  /** float32 `[rows, length]`: 1 for the answers' tokens. */
  readonly weights: Value;
  /** float32 `[rows]`. */
  readonly advantages: Value;
}

/**
 * The clipped policy loss of each answer (arXiv 2402.03300), `[rows]`: the mean over its tokens of
 * −min(ρA, clip(ρ, 1 − ε, 1 + ε)·A) + β·(exp(d) − d − 1), with ρ = π/π_old and d = log ref − log π.
 */
export function policyLoss(
  { logs, old, reference, weights, advantages }: PolicyScores,
  { epsilon, beta }: { readonly epsilon: number; readonly beta: number },
): Value {
  const gain = ops.unsqueeze(advantages, 1);
  const ratio = ops.exp(ops.sub(logs, old));
  const clipped = ops.max(ops.min(ratio, 1 + epsilon), 1 - epsilon);
  let each = ops.neg(ops.min(ops.mul(ratio, gain), ops.mul(clipped, gain)));
  if (reference && beta > 0) {
    const d = ops.sub(reference, logs);
    each = ops.add(each, ops.mul(ops.sub(ops.sub(ops.exp(d), d), 1), beta));
  }
  const length = ops.max(ops.reduceSum(weights, [1], false), 1);
  return ops.div(ops.reduceSum(ops.mul(each, weights), [1], false), length);
}

/**
 * How much better each answer is than others to the same prompt. `group`: (r − mean) / (deviation + 1e-4) (GRPO);
 * `leave-one-out`: r − the mean of the others (RLOO, arXiv 2402.14740).
 *
 * @param rewards Answers to one prompt follow one another, `groupSize` of them.
 */
export function groupAdvantages(
  rewards: readonly number[],
  groupSize: number,
  kind: "group" | "leave-one-out",
): number[] {
  return rewards.map((reward, at) => {
    const start = at - (at % groupSize);
    const group = rewards.slice(start, start + groupSize);
    const sum = group.reduce((a, b) => a + b, 0);
    if (kind === "leave-one-out") return reward - (sum - reward) / (groupSize - 1);
    const mean = sum / groupSize;
    // The sample's deviation, as torch computes it.
    const deviation = Math.sqrt(group.reduce((s, r) => s + (r - mean) ** 2, 0) / (groupSize - 1));
    return (reward - mean) / (deviation + 1e-4);
  });
}
