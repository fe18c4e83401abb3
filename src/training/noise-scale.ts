import { globalNorm } from "./optim/transforms.js";
import type { Params } from "./optim/types.js";

/** Running means of what the scale is the ratio of, for a checkpoint. */
export interface NoiseScaleState {
  readonly trace: number;
  readonly norm: number;
  readonly weight: number;
}

/** Estimates the gradient noise scale from the micro-batches of updates. */
export interface NoiseScale {
  /** Items of a micro-batch, and its gradient as it adds up to that of all `total` items. */
  micro(gradient: Params, count: number, total: number): void;
  /** The gradient of the update the micro-batches belong to. */
  update(gradNorm: number, total: number): void;
  /** In items; undefined before there is enough to say, or while the estimate of the gradient is not positive. */
  value(): number | undefined;
  state(): NoiseScaleState;
  restore(state: NoiseScaleState): void;
}

/** Share of the past that stays in the means with each update. */
const KEPT = 0.95;

/**
 * The simple noise scale of arXiv 1812.06162 (appendix A.1): the trace of the gradients' covariance over their squared
 * mean, from the norms at two batch sizes. Batches far below it give noisy updates, batches far above waste computation.
 */
export function noiseScale(): NoiseScale {
  let [trace, norm, weight] = [0, 0, 0];
  let parts: { readonly square: number; readonly count: number }[] = [];
  return {
    micro(gradient, count, total) {
      const own = (globalNorm(gradient) * total) / count;
      parts.push({ square: own * own, count });
    },
    update(gradNorm, total) {
      const small = parts.length / parts.reduce((sum, { count }) => sum + 1 / count, 0);
      const square = parts.reduce((sum, part) => sum + part.square, 0) / parts.length;
      const several = parts.length > 1;
      parts = [];
      if (!several) return;
      const big = gradNorm * gradNorm;
      trace = KEPT * trace + (1 - KEPT) * ((square - big) / (1 / small - 1 / total));
      norm = KEPT * norm + (1 - KEPT) * ((total * big - small * square) / (total - small));
      weight = KEPT * weight + (1 - KEPT);
    },
    value: () => (weight > 0 && norm > 0 && trace > 0 ? trace / norm : undefined),
    state: () => ({ trace, norm, weight }),
    restore(state) {
      ({ trace, norm, weight } = state);
    },
  };
}
