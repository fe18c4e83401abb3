import { TunesmithError } from "../../errors/index.js";
import { clipping, fromTransform, type OptimizerOptions, ratesOf } from "./finished.js";
import { requireNumber } from "./groups.js";
import { createState, parameterOf, scalarOfState, slotOf } from "./state.js";
import {
  type AdamOptions,
  adamDefaults,
  addDecayedWeights,
  chain,
  innerOf,
  multiply,
  scaleByAdam,
  scaleByRate,
  sumOfSquares,
  trace,
} from "./transforms.js";
import type { GradientTransform, Optimizer } from "./types.js";

/** Lion: the sign of an average of momentum and gradient (arXiv 2302.06675, algorithm 2). Defaults [0.9, 0.99]. */
export function scaleByLion(betas: readonly [number, number] = [0.9, 0.99]): GradientTransform {
  const [beta1, beta2] = betas;
  requireNumber("Lion: beta1", beta1, 0, 1);
  requireNumber("Lion: beta2", beta2, 0, 1);
  return {
    init: (params) => createState(params, ["mu"]),
    update(grads, state) {
      for (const [name, data] of grads) {
        const mu = slotOf(state, "mu", name, data.length);
        for (let i = 0; i < data.length; i++) {
          const g = data[i] as number;
          const m = mu[i] as number;
          data[i] = Math.sign(beta1 * m + (1 - beta1) * g);
          mu[i] = beta2 * m + (1 - beta2) * g;
        }
      }
      return grads;
    },
  };
}

/** Settings of RMSProp. */
export interface RmsOptions {
  /** Decay of the mean square. Default 0.99. */
  readonly smoothing?: number | undefined;
  /** Default 1e-8. */
  readonly eps?: number | undefined;
  /** Subtract the square of the mean gradient: an estimate of the variance. Default false. */
  readonly centered?: boolean | undefined;
}

/** Divides by the root of the mean square, `g / (sqrt(v) + eps)`, as in `torch.optim.RMSprop`. */
export function scaleByRms({
  smoothing = 0.99,
  eps = 1e-8,
  centered = false,
}: RmsOptions = {}): GradientTransform {
  requireNumber("RMSProp: smoothing", smoothing, 0, 1);
  requireNumber("RMSProp: eps", eps, 0);
  return {
    init: (params) => createState(params, centered ? ["nu", "mean"] : ["nu"]),
    update(grads, state) {
      for (const [name, data] of grads) {
        const nu = slotOf(state, "nu", name, data.length);
        const mean = centered ? slotOf(state, "mean", name, data.length) : undefined;
        for (let i = 0; i < data.length; i++) {
          const g = data[i] as number;
          nu[i] = (nu[i] as number) * smoothing + g * g * (1 - smoothing);
          let second = nu[i] as number;
          if (mean) {
            mean[i] = (mean[i] as number) + (g - (mean[i] as number)) * (1 - smoothing);
            second -= (mean[i] as number) ** 2;
          }
          data[i] = g / (Math.sqrt(Math.max(0, second)) + eps);
        }
      }
      return grads;
    },
  };
}

/** Divides by the root of the sum of squares so far, as in `torch.optim.Adagrad`. Defaults: start 0, eps 1e-10. */
export function scaleByAdagrad({ start = 0, eps = 1e-10 } = {}): GradientTransform {
  requireNumber("Adagrad: start", start, 0);
  requireNumber("Adagrad: eps", eps, 0);
  return {
    init(params) {
      const state = createState(params, ["nu"]);
      for (const data of state.slots.nu?.values() ?? []) data.fill(start);
      return state;
    },
    update(grads, state) {
      for (const [name, data] of grads) {
        const nu = slotOf(state, "nu", name, data.length);
        for (let i = 0; i < data.length; i++) {
          const g = data[i] as number;
          nu[i] = (nu[i] as number) + g * g;
          data[i] = g / (Math.sqrt(nu[i] as number) + eps);
        }
      }
      return grads;
    },
  };
}

/** Adam with Nesterov momentum, as in `torch.optim.NAdam` (Dozat, ICLR 2016 workshop). Default momentumDecay 4e-3. */
export function scaleByNadam(
  options: AdamOptions & { momentumDecay?: number | undefined } = {},
): GradientTransform {
  const { betas, eps } = adamDefaults(options);
  const { momentumDecay = 4e-3 } = options;
  requireNumber("NAdam: momentumDecay", momentumDecay, 0);
  const [beta1, beta2] = betas;
  const momentumAt = (step: number): number => beta1 * (1 - 0.5 * 0.96 ** (step * momentumDecay));
  return {
    init: (params) => createState(params, ["mu", "nu"], { product: 1 }),
    update(grads, state, _params, { step }) {
      const product = scalarOfState(state, "product") * momentumAt(step);
      state.scalars.product = product;
      const ofGrad = (1 - momentumAt(step)) / (1 - product);
      const ofMean = momentumAt(step + 1) / (1 - product * momentumAt(step + 1));
      const correction = 1 - beta2 ** step;
      for (const [name, data] of grads) {
        const mu = slotOf(state, "mu", name, data.length);
        const nu = slotOf(state, "nu", name, data.length);
        for (let i = 0; i < data.length; i++) {
          const g = data[i] as number;
          mu[i] = (mu[i] as number) + (g - (mu[i] as number)) * (1 - beta1);
          nu[i] = (nu[i] as number) * beta2 + g * g * (1 - beta2);
          const root = Math.sqrt((nu[i] as number) / correction) + eps;
          data[i] = (ofGrad * g + ofMean * (mu[i] as number)) / root;
        }
      }
      return grads;
    },
  };
}

/** Scales each parameter's update to the parameter's own norm; 1 where either norm is 0 (LAMB, arXiv 1904.00962). */
export function scaleByTrustRatio(): GradientTransform {
  return {
    init: (params) => createState(params),
    update(grads, _state, params) {
      for (const [name, data] of grads) {
        const weight = Math.sqrt(sumOfSquares(parameterOf(params, name, data.length)));
        const update = Math.sqrt(sumOfSquares(data));
        if (weight > 0 && update > 0) multiply(data, weight / update);
      }
      return grads;
    },
  };
}

/** Lion with decoupled weight decay (arXiv 2302.06675), the numbers of `lion-pytorch`. Use a tenth of AdamW's rate. */
export function lion(
  options: OptimizerOptions & { betas?: readonly [number, number] | undefined },
): Optimizer {
  const { betas = [0.9, 0.99] } = options;
  const rates = ratesOf("lion", options);
  const clip = clipping(options);
  const parts = [scaleByLion(betas), addDecayedWeights(rates.weightDecay), scaleByRate(rates.lr)];
  return {
    ...fromTransform("lion", options, chain(...clip, ...parts)),
    graph: { name: "lion", options },
    step(params, grads, state, context) {
      clip[0]?.update(grads, innerOf(state, 0), params, context);
      const own = innerOf(state, clip.length);
      for (const [name, grad] of grads) {
        const weights = parameterOf(params, name, grad.length);
        const mu = slotOf(own, "mu", name, grad.length);
        fusedLion(weights, grad, mu, betas, rates.lr(name, context.step), rates.weightDecay(name));
      }
    },
  };
}

/** One pass instead of the four of the chain. */
function fusedLion(
  weights: Float32Array,
  grads: Float32Array,
  mu: Float32Array,
  [beta1, beta2]: readonly [number, number],
  lr: number,
  decay: number,
): void {
  for (let i = 0; i < weights.length; i++) {
    const g = grads[i] as number;
    const m = mu[i] as number;
    const w = weights[i] as number;
    const mixed = beta1 * m + (1 - beta1) * g;
    const sign = mixed > 0 ? lr : mixed < 0 ? -lr : 0;
    mu[i] = beta2 * m + (1 - beta2) * g;
    weights[i] = w - (sign + lr * decay * w);
  }
}

/** RMSProp, the numbers of `torch.optim.RMSprop`: weight decay is added to the gradient. Default momentum 0. */
export function rmsprop(
  options: OptimizerOptions & RmsOptions & { momentum?: number | undefined },
): Optimizer {
  const rates = ratesOf("rmsprop", options);
  const { momentum = 0 } = options;
  return fromTransform(
    "rmsprop",
    options,
    chain(
      ...clipping(options),
      addDecayedWeights(rates.weightDecay),
      scaleByRms(options),
      ...(momentum > 0 ? [trace(momentum)] : []),
      scaleByRate(rates.lr),
    ),
  );
}

/** Adagrad, the numbers of `torch.optim.Adagrad` (JMLR 12, 2011): weight decay is added to the gradient. */
export function adagrad(
  options: OptimizerOptions & { start?: number | undefined; eps?: number | undefined },
): Optimizer {
  const rates = ratesOf("adagrad", options);
  const { start = 0, eps = 1e-10 } = options;
  const parts = [addDecayedWeights(rates.weightDecay), scaleByAdagrad({ start, eps }), scaleByRate(rates.lr)];
  return fromTransform("adagrad", options, chain(...clipping(options), ...parts));
}

/** NAdam with decoupled weight decay, the numbers of `torch.optim.NAdam` with `decoupled_weight_decay`. */
export function nadam(
  options: OptimizerOptions & AdamOptions & { momentumDecay?: number | undefined },
): Optimizer {
  if (options.amsgrad) {
    throw new TunesmithError("config-invalid", "nadam has no amsgrad", { fix: "use adamw with amsgrad" });
  }
  const rates = ratesOf("nadam", options);
  const parts = [scaleByNadam(options), addDecayedWeights(rates.weightDecay), scaleByRate(rates.lr)];
  return fromTransform("nadam", options, chain(...clipping(options), ...parts));
}

/** LAMB (arXiv 1904.00962, algorithm 2, identity as the scaling function): AdamW whose steps follow the weights' norms. */
export function lamb(options: OptimizerOptions & AdamOptions): Optimizer {
  const rates = ratesOf("lamb", options);
  const parts = [
    scaleByAdam({ eps: 1e-6, ...options }),
    addDecayedWeights(rates.weightDecay),
    scaleByTrustRatio(),
    scaleByRate(rates.lr),
  ];
  return fromTransform("lamb", options, chain(...clipping(options), ...parts));
}
