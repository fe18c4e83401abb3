import { constant, ops, type Value } from "../graph/index.js";
import { tensor } from "../tensor/index.js";

/** Added to variances. */
const EPSILON = 1e-8;

/** Bandwidths σ of the kernel Σ exp(−‖a − b‖² / 2σ). */
export const MMD_BANDWIDTHS: readonly number[] = [
  ...[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35],
  ...[100, 1e3, 1e4, 1e5, 1e6],
];

/** Representations of a batch whose rows are of several tasks. */
export interface TaskFeatures {
  /** `[positions, rows, features]` */
  readonly z: Value;
  /** float32 `[tasks, rows]`: 1 where a row is of a task. */
  readonly membership: Value;
  /** float32 `[positions, rows]`, 0 for padding. Default: all count. */
  readonly mask?: Value | undefined;
}

/** A distance between the representations of tasks, a scalar: the mean over pairs of tasks. */
export type TaskDistance = (features: TaskFeatures) => Value;

/** What of a batch counts where: weights `[positions, tasks, rows]`, and how many rows that is, `[positions, tasks, 1]`. */
function counted({ z, membership, mask }: TaskFeatures) {
  const own = ops.unsqueeze(membership, 0);
  const [positions, rows] = z.shape as [number, number];
  const weights = mask
    ? ops.mul(own, ops.unsqueeze(mask, 1))
    : ops.expand(own, [positions, membership.shape[0] ?? 1, rows]);
  return { weights, counts: ops.reduceSum(weights, [2]) };
}

/** `[positions, tasks, tasks]` → scalar: mean over pairs of the mean over positions where both tasks have `least` rows. */
function meanOverPairs(distances: Value, counts: Value, least: number): Value {
  const [, tasks] = distances.shape as [number, number];
  const enough = ops.cast(ops.greater(counts, least - 0.5), "float32");
  const valid = ops.mul(enough, ops.transpose(enough, [0, 2, 1]));
  const positions = ops.max(ops.reduceSum(valid, [0], false), ops.scalar(1));
  const perPair = ops.div(ops.reduceSum(ops.mul(distances, valid), [0], false), positions);
  const apart = Float32Array.from({ length: tasks * tasks }, (_, at) =>
    Math.floor(at / tasks) === at % tasks ? 0 : 1 / (tasks * (tasks - 1)),
  );
  const pairs = constant(tensor("float32", [tasks, tasks], apart));
  return ops.reduceSum(ops.mul(perPair, pairs), undefined, false);
}

/**
 * Symmetric Kullback-Leibler divergence of diagonal Gaussians, fitted per position over the rows of a task (unbiased
 * variance), summed over features: (KL(t‖u) + KL(u‖t)) / 2, in which the logarithms cancel.
 */
export const klDistance: TaskDistance = (features) => {
  const { z } = features;
  const { weights, counts } = counted(features);
  const mean = ops.div(ops.matmul(weights, z), ops.max(counts, ops.scalar(1)));
  // [positions, tasks, rows, features]: from each task's own mean, so that nothing cancels.
  const centred = ops.sub(ops.unsqueeze(z, 1), ops.unsqueeze(mean, 2));
  const squares = ops.reduceSum(ops.mul(ops.square(centred), ops.unsqueeze(weights, 3)), [2], false);
  const variance = ops.add(ops.div(squares, ops.max(ops.sub(counts, 1), ops.scalar(1))), EPSILON);
  const enough = ops.greater(counts, 1.5);
  const v = ops.where(enough, variance, ops.scalar(1));
  const [left, right] = [ops.unsqueeze(v, 2), ops.unsqueeze(v, 1)];
  const shift = ops.square(ops.sub(ops.unsqueeze(mean, 2), ops.unsqueeze(mean, 1)));
  const [one, other] = [ops.div(left, right), ops.div(right, left)];
  const shifts = ops.mul(shift, ops.add(ops.reciprocal(left), ops.reciprocal(right)));
  const terms = ops.sub(ops.add(ops.add(one, other), shifts), 2);
  return meanOverPairs(ops.mul(ops.reduceSum(terms, [3], false), 0.25), counts, 2);
};

/**
 * Squared maximum mean discrepancy under a sum of Gaussian kernels of 19 bandwidths, per position: the biased statistic, in
 * which every row meets itself too.
 */
export const mmdDistance: TaskDistance = (features) => {
  const { z } = features;
  const { weights, counts } = counted(features);
  // As differences: a product of Gram matrices would drown bandwidths of 1e-6 in rounding.
  const distance = ops.reduceSum(ops.square(ops.sub(ops.unsqueeze(z, 2), ops.unsqueeze(z, 1))), [3], false);
  const kernel = MMD_BANDWIDTHS.map((sigma) => ops.exp(ops.mul(distance, -1 / (2 * sigma)))).reduce((a, b) =>
    ops.add(a, b),
  );
  const shares = ops.div(weights, ops.max(counts, ops.scalar(1)));
  const means = ops.matmul(ops.matmul(shares, kernel), ops.transpose(shares, [0, 2, 1]));
  const [, tasks] = means.shape as [number, number];
  const unit = Float32Array.from({ length: tasks * tasks }, (_, at) =>
    Math.floor(at / tasks) === at % tasks ? 1 : 0,
  );
  const own = ops.reduceSum(ops.mul(means, constant(tensor("float32", [tasks, tasks], unit))), [2]);
  const apart = ops.sub(ops.add(own, ops.transpose(own, [0, 2, 1])), ops.mul(means, 2));
  return meanOverPairs(apart, counts, 1);
};

export const taskDistances = { kl: klDistance, mmd: mmdDistance } as const;
