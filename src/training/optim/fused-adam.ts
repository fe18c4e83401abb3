/** Constants of one Adam update of one parameter. */
export interface AdamStep {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** 1 - beta1^step. */
  readonly correction1: number;
  /** sqrt(1 - beta2^step). */
  readonly root2: number;
  readonly lr: number;
  /** Weight decay added to the gradient (Adam). */
  readonly l2: number;
  /** Decoupled weight decay added to the update (AdamW). */
  readonly decay: number;
}

const fround = Math.fround;

/**
 * One pass over a parameter that does what `addDecayedWeights`, `scaleByAdam`, `addDecayedWeights`,
 * `scaleByLearningRate` and `applyUpdates` do in five. Rounding to float32 stands wherever those store an
 * intermediate, so the results are the same bits.
 */
export function fusedAdam(
  weights: Float32Array,
  grads: Float32Array,
  mu: Float32Array,
  nu: Float32Array,
  step: AdamStep,
): void {
  const { beta2, eps, correction1, root2, l2, decay } = step;
  const keep1 = 1 - step.beta1;
  const keep2 = 1 - beta2;
  const minusLr = -step.lr;
  const length = weights.length;
  for (let i = 0; i < length; i++) {
    const w = weights[i] as number;
    const g = l2 === 0 ? (grads[i] as number) : fround((grads[i] as number) + l2 * w);
    const before = mu[i] as number;
    const m = fround(before + (g - before) * keep1);
    const n = fround((nu[i] as number) * beta2 + g * g * keep2);
    mu[i] = m;
    nu[i] = n;
    let u = fround(m / correction1 / (Math.sqrt(n) / root2 + eps));
    if (decay !== 0) u = fround(u + decay * w);
    weights[i] = w + fround(u * minusLr);
  }
}

/** `fusedAdam` with AMSGrad's running maximum of the second moment. */
export function fusedAmsgrad(
  weights: Float32Array,
  grads: Float32Array,
  mu: Float32Array,
  nu: Float32Array,
  nuMax: Float32Array,
  step: AdamStep,
): void {
  const { beta2, eps, correction1, root2, l2, decay } = step;
  const keep1 = 1 - step.beta1;
  const keep2 = 1 - beta2;
  const minusLr = -step.lr;
  const length = weights.length;
  for (let i = 0; i < length; i++) {
    const w = weights[i] as number;
    const g = l2 === 0 ? (grads[i] as number) : fround((grads[i] as number) + l2 * w);
    const before = mu[i] as number;
    const m = fround(before + (g - before) * keep1);
    const n = fround((nu[i] as number) * beta2 + g * g * keep2);
    const largest = Math.max(nuMax[i] as number, n);
    mu[i] = m;
    nu[i] = n;
    nuMax[i] = largest;
    let u = fround(m / correction1 / (Math.sqrt(largest) / root2 + eps));
    if (decay !== 0) u = fround(u + decay * w);
    weights[i] = w + fround(u * minusLr);
  }
}
