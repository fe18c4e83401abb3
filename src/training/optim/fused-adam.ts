/** Constants of one Adam update of one parameter. */
export interface AdamStep {
  readonly beta1: number;
  readonly beta2: number;
  /** Both bias corrections; see `adamBias`. */
  readonly bias: AdamBias;
  readonly lr: number;
  /** Decoupled weight decay; 0 for Adam. */
  readonly decay: number;
  /** Gradients are multiplied by this first, in float32; 1 unless they are clipped. */
  readonly clip: number;
}

/** Adam's bias corrections of one step, folded into the two numbers of the denominator. */
export interface AdamBias {
  readonly factor: number;
  readonly offset: number;
}

/**
 * `m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)` written as `m / (sqrt(v) * factor + offset)`: one division per
 * value instead of three, and division is what bounds the loop.
 */
export function adamBias(beta1: number, beta2: number, eps: number, step: number): AdamBias {
  const correction1 = 1 - beta1 ** step;
  return { factor: correction1 / Math.sqrt(1 - beta2 ** step), offset: eps * correction1 };
}

const fround = Math.fround;

/**
 * One pass over a parameter that does what clipping, `scaleByAdam`, `addDecayedWeights`, `scaleByLearningRate` and
 * `applyUpdates` do in five. The moments are the same bits; the update stays in float64 instead of being rounded
 * after each part, which is faster and differs by rounding only.
 */
export function fusedAdam(
  weights: Float32Array,
  grads: Float32Array,
  mu: Float32Array,
  nu: Float32Array,
  step: AdamStep,
): void {
  const { beta2, decay, clip } = step;
  const { factor, offset } = step.bias;
  const keep1 = 1 - step.beta1;
  const keep2 = 1 - beta2;
  const minusLr = -step.lr;
  const length = weights.length;
  for (let i = 0; i < length; i++) {
    const w = weights[i] as number;
    const g = fround((grads[i] as number) * clip);
    const before = mu[i] as number;
    const m = fround(before + (g - before) * keep1);
    const n = fround((nu[i] as number) * beta2 + g * g * keep2);
    mu[i] = m;
    nu[i] = n;
    weights[i] = w + minusLr * (m / (Math.sqrt(n) * factor + offset) + decay * w);
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
  const { beta2, decay, clip } = step;
  const { factor, offset } = step.bias;
  const keep1 = 1 - step.beta1;
  const keep2 = 1 - beta2;
  const minusLr = -step.lr;
  const length = weights.length;
  for (let i = 0; i < length; i++) {
    const w = weights[i] as number;
    const g = fround((grads[i] as number) * clip);
    const before = mu[i] as number;
    const m = fround(before + (g - before) * keep1);
    const n = fround((nu[i] as number) * beta2 + g * g * keep2);
    const largest = Math.max(nuMax[i] as number, n);
    mu[i] = m;
    nu[i] = n;
    nuMax[i] = largest;
    weights[i] = w + minusLr * (m / (Math.sqrt(largest) * factor + offset) + decay * w);
  }
}
