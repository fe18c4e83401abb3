import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";

/** What a loss over pairs of answers is made of, float32 `[pairs]` each. */
export interface PairScores {
  /** Sums of the log-probabilities of the answers' tokens. */
  readonly chosen: Value;
  readonly rejected: Value;
  /** Numbers of tokens of the answers. */
  readonly chosenLength: Value;
  readonly rejectedLength: Value;
}

/** The same answers under the reference model. */
export type ReferenceScores = Pick<PairScores, "chosen" | "rejected">;

const positive = () => z.number().positive();

/** Options of `dpo` as data. */
export const dpoOptions = z.strictObject({
  beta: positive().default(0.1).describe("weight of the distance to the reference"),
  loss: z
    .enum(["sigmoid", "hinge", "ipo", "robust"])
    .default("sigmoid")
    .describe("sigmoid: DPO; hinge: SLiC; ipo: squared distance of means; robust: for wrong labels"),
  labelSmoothing: z
    .number()
    .min(0)
    .lt(0.5)
    .default(0)
    .describe("share of pairs that are taken to be the wrong way round"),
});
/** Options of `orpo` as data. */
export const orpoOptions = z.strictObject({
  beta: z.number().min(0).default(0.1).describe("weight of the odds ratio (λ in the paper)"),
});
/** Options of `simpo` as data. */
export const simpoOptions = z.strictObject({
  beta: positive().default(2).describe("scale of the mean log-probabilities"),
  gamma: z.number().min(0).default(1).describe("margin that the preferred answer should win by"),
});
/** Options of `cpo` as data. */
export const cpoOptions = z.strictObject({
  beta: positive().default(0.1).describe("scale of the log-probabilities"),
  alpha: z.number().min(0).default(1).describe("weight of the cross-entropy of the preferred answer"),
});

/** −log σ(x), without overflow. */
export const negLogSigmoid = (x: Value): Value => ops.softplus(ops.neg(x));

const mean = (sum: Value, length: Value): Value => ops.div(sum, ops.max(length, 1));

/**
 * DPO and its variants, per pair: with Δ = log π(c)/ref(c) − log π(r)/ref(r),
 * sigmoid −log σ(βΔ), smoothed by ε: (1 − ε)·(−log σ(βΔ)) + ε·(−log σ(−βΔ)) (arXiv 2305.18290);
 * robust: ((1 − ε)·(−log σ(βΔ)) − ε·(−log σ(−βΔ))) / (1 − 2ε) (arXiv 2403.00409);
 * hinge: max(0, 1 − βΔ) (arXiv 2305.10425);
 * ipo: (Δ̄ − 1/2β)² with means over tokens (arXiv 2310.12036).
 */
export function dpoLoss(
  policy: PairScores,
  reference: ReferenceScores,
  { beta, loss, labelSmoothing: wrong }: z.output<typeof dpoOptions>,
): Value {
  const ratio = (side: "chosen" | "rejected") => ops.sub(policy[side], reference[side]);
  if (loss === "ipo") {
    const chosen = mean(ratio("chosen"), policy.chosenLength);
    const rejected = mean(ratio("rejected"), policy.rejectedLength);
    return ops.square(ops.sub(ops.sub(chosen, rejected), 1 / (2 * beta)));
  }
  const margin = ops.mul(ops.sub(ratio("chosen"), ratio("rejected")), beta);
  if (loss === "hinge") return ops.relu(ops.sub(ops.scalar(1), margin));
  const right = ops.mul(negLogSigmoid(margin), 1 - wrong);
  const other = ops.mul(negLogSigmoid(ops.neg(margin)), wrong);
  return loss === "robust" ? ops.div(ops.sub(right, other), 1 - 2 * wrong) : ops.add(right, other);
}

/**
 * ORPO (arXiv 2403.07691), per pair: the mean cross-entropy of the preferred answer − β·log σ(log odds(c) − log odds(r)), where
 * odds are of the mean log-probabilities.
 */
export function orpoLoss(pair: PairScores, { beta }: z.output<typeof orpoOptions>): Value {
  const chosen = mean(pair.chosen, pair.chosenLength);
  const rejected = mean(pair.rejected, pair.rejectedLength);
  const ratio = ops.sub(ops.sub(chosen, rejected), ops.sub(logRest(chosen), logRest(rejected)));
  return ops.add(ops.neg(chosen), ops.mul(negLogSigmoid(ratio), beta));
}

/** log(1 − p) of a mean log-probability; away from p = 1, where it has no value. */
const logRest = (logP: Value): Value => ops.log(ops.sub(ops.scalar(1), ops.exp(ops.min(logP, -1e-6))));

/** SimPO (arXiv 2405.14734), per pair: −log σ(β·mean(c) − β·mean(r) − γ). */
export function simpoLoss(pair: PairScores, { beta, gamma }: z.output<typeof simpoOptions>): Value {
  const difference = ops.sub(mean(pair.chosen, pair.chosenLength), mean(pair.rejected, pair.rejectedLength));
  return negLogSigmoid(ops.sub(ops.mul(difference, beta), gamma));
}

/** CPO (arXiv 2401.08417), per pair: −log σ(β·(log π(c) − log π(r))) + α·mean cross-entropy of the preferred answer. */
export function cpoLoss(pair: PairScores, { beta, alpha }: z.output<typeof cpoOptions>): Value {
  const preference = negLogSigmoid(ops.mul(ops.sub(pair.chosen, pair.rejected), beta));
  return ops.sub(preference, ops.mul(mean(pair.chosen, pair.chosenLength), alpha));
}
