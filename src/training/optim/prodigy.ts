import { biasOf } from "./dadapt-adam.js";
import { addDecay, type DAdaptOptions, dadaptFrom } from "./dadapt-common.js";
import { requireNumber } from "./groups.js";
import { createState, parameterOf, scalarOfState, slotOf } from "./state.js";
import { adamDefaults } from "./transforms.js";
import type { Optimizer, OptimizerState, Params } from "./types.js";

/** Settings of Prodigy. */
export interface ProdigyOptions extends DAdaptOptions {
  /** Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number] | undefined;
  /** Decay of the sums behind the estimate. Default sqrt(beta2). */
  readonly beta3?: number | undefined;
  /** Default 1e-8. */
  readonly eps?: number | undefined;
  /** Decay weights apart from the gradient. Default true. */
  readonly decouple?: boolean | undefined;
  /** Adam's bias correction. Default false. */
  readonly biasCorrection?: boolean | undefined;
  /** Leave the learning rate out of the estimate's denominator, so that warm-up does not inflate it. Default false. */
  readonly safeguardWarmup?: boolean | undefined;
  /** Multiplies the estimate. Default 1. */
  readonly dCoefficient?: number | undefined;
  /** Look at every n-th value only for the estimate: less memory. Default 1. */
  readonly every?: number | undefined;
}

/**
 * Prodigy (arXiv 2306.06101), the numbers of `prodigyopt` 1.1: as `dadaptAdam`, with an estimate that grows faster.
 * Leave lr at 1.
 *
 * @throws `config-invalid` for a setting out of range.
 */
export function prodigy(options: ProdigyOptions = {}): Optimizer {
  const { decouple = true, biasCorrection = false, safeguardWarmup = false } = options;
  const { dCoefficient = 1, every = 1, growthRate = Number.POSITIVE_INFINITY, d0 = 1e-6 } = options;
  const { betas, eps } = adamDefaults({
    ...(options.betas && { betas: options.betas }),
    ...(options.eps !== undefined && { eps: options.eps }),
  });
  const [beta1, beta2] = betas;
  const beta3 = options.beta3 ?? Math.sqrt(beta2);
  requireNumber("prodigy: beta3", beta3, 0, 1);
  requireNumber("prodigy: dCoefficient", dCoefficient, Number.MIN_VALUE);
  requireNumber("prodigy: every", every, 1);
  return dadaptFrom(options, {
    name: "prodigy",
    init: (params) => startOf(params, every, d0),
    step(params, grads, state, { d, lr, k, scale, weightDecay }) {
      const rate = d * lr * biasOf(biasCorrection, betas, k);
      const ofS = (d / d0) * (safeguardWarmup ? d : rate);
      let [numerator, absolute] = [beta3 * scalarOfState(state, "numerator"), 0];
      for (const [name, grad] of grads) {
        if (scale(name) === 0) continue;
        const weights = parameterOf(params, name, grad.length);
        if (!decouple) addDecay(grad, weights, weightDecay(name));
        const [mu, nu] = [slotOf(state, "mu", name, grad.length), slotOf(state, "nu", name, grad.length)];
        const sliced = Math.ceil(grad.length / every);
        const [s, x0] = [slotOf(state, "s", name, sliced), slotOf(state, "x0", name, sliced)];
        let dot = 0;
        for (let j = 0, i = 0; j < sliced; j++, i += every) {
          const g = grad[i] as number;
          dot += g * ((x0[j] as number) - (weights[i] as number));
          s[j] = beta3 * (s[j] as number) + ofS * g;
          absolute += Math.abs(s[j] as number);
        }
        numerator += (d / d0) * rate * dot;
        for (let i = 0; i < grad.length; i++) {
          const g = grad[i] as number;
          mu[i] = beta1 * (mu[i] as number) + d * (1 - beta1) * g;
          nu[i] = beta2 * (nu[i] as number) + d * d * (1 - beta2) * g * g;
        }
      }
      if (absolute === 0) return undefined;
      const estimate = (dCoefficient * numerator) / absolute;
      const largest = Math.max(scalarOfState(state, "largest"), estimate);
      Object.assign(state.scalars, { numerator, largest });
      const first = d === d0 ? Math.max(d, estimate) : d;
      const next = Math.min(largest, first * growthRate);
      move(params, grads, state, {
        rate,
        offset: next * eps,
        decay: decouple ? weightDecay : () => 0,
        scale,
      });
      return next;
    },
  });
}

function startOf(params: Params, every: number, d0: number): OptimizerState {
  const state = createState(params, ["mu", "nu"], { numerator: 0, largest: d0 });
  const slice = (data: Float32Array): Float32Array =>
    Float32Array.from({ length: Math.ceil(data.length / every) }, (_, at) => data[at * every] as number);
  const x0 = new Map([...params].map(([name, data]) => [name, slice(data)] as const));
  const s = new Map([...x0].map(([name, data]) => [name, new Float32Array(data.length)] as const));
  return { ...state, slots: { ...state.slots, x0, s } };
}

interface Move {
  readonly rate: number;
  readonly offset: number;
  decay(name: string): number;
  scale(name: string): number;
}

function move(
  params: Params,
  grads: Params,
  state: OptimizerState,
  { rate, offset, decay, scale }: Move,
): void {
  for (const [name, { length }] of grads) {
    if (scale(name) === 0) continue;
    const weights = parameterOf(params, name, length);
    const [mu, nu] = [slotOf(state, "mu", name, length), slotOf(state, "nu", name, length)];
    const kept = 1 - decay(name) * rate;
    for (let i = 0; i < length; i++) {
      weights[i] =
        kept * (weights[i] as number) - (rate * (mu[i] as number)) / (Math.sqrt(nu[i] as number) + offset);
    }
  }
}
