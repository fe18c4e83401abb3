import { TunesmithError } from "../../errors/index.js";
import { clipping, fromTransform, type OptimizerOptions, ratesOf } from "./finished.js";
import { type AdamStep, adamBias, fusedAdam, fusedAmsgrad } from "./fused-adam.js";
import { parameterOf, slotOf } from "./state.js";
import {
  type AdamOptions,
  adamDefaults,
  addDecayedWeights,
  chain,
  globalClip,
  innerOf,
  scaleByAdam,
  scaleByRate,
  trace,
} from "./transforms.js";
import type { Optimizer } from "./types.js";

/**
 * AdamW: Adam with decoupled weight decay (arXiv 1711.05101), the numbers of `torch.optim.AdamW`. Defaults: betas
 * [0.9, 0.999], eps 1e-8, weightDecay 0.01.
 *
 * @throws `config-invalid` for a setting out of range, `target-not-found` (from `init`) for a group without parameter.
 *
 * @example
 * ```ts
 * import { adamw, cosine } from "tunesmith/training";
 * const optimizer = adamw({ lr: 3e-4, schedule: cosine({ totalSteps: 100, warmupSteps: 10 }), maxGradNorm: 1 });
 * const params = new Map([["w", Float32Array.of(1, -2)]]);
 * const state = optimizer.init(params);
 * optimizer.step(params, new Map([["w", Float32Array.of(0.5, 0.1)]]), state, { step: 1 });
 * ```
 */
export function adamw(options: OptimizerOptions & AdamOptions): Optimizer {
  return adamFamily("adamw", { ...options, weightDecay: options.weightDecay ?? 0.01 });
}

/** Adam (arXiv 1412.6980), the numbers of `torch.optim.Adam`: weight decay, if any, is added to the gradient. */
export function adam(options: OptimizerOptions & AdamOptions): Optimizer {
  return adamFamily("adam", options);
}

/**
 * Stochastic gradient descent, the numbers of `torch.optim.SGD` (no dampening): weight decay is added to the
 * gradient, then momentum.
 *
 * @param options.momentum Default 0.
 * @param options.nesterov Look ahead along the momentum. Default false.
 */
export function sgd(options: OptimizerOptions & { momentum?: number; nesterov?: boolean }): Optimizer {
  const { momentum = 0, nesterov = false } = options;
  if (nesterov && momentum === 0) {
    throw new TunesmithError("config-invalid", "sgd: nesterov is set but momentum is 0", {
      fix: "give a momentum, for example 0.9",
    });
  }
  const rates = ratesOf("sgd", options);
  const parts = [
    ...clipping(options),
    addDecayedWeights(rates.weightDecay),
    ...(momentum > 0 ? [trace(momentum, { nesterov })] : []),
    scaleByRate(rates.lr),
  ];
  return { ...fromTransform("sgd", options, chain(...parts)), graph: { name: "sgd", options } };
}

function adamFamily(name: "adam" | "adamw", options: OptimizerOptions & AdamOptions): Optimizer {
  const rates = ratesOf(name, options);
  const constants = adamDefaults(options);
  const decay = addDecayedWeights(rates.weightDecay);
  const clip = clipping(options);
  const decoupled = name === "adamw";
  const transform = chain(
    ...clip,
    ...(decoupled ? [scaleByAdam(constants), decay] : [decay, scaleByAdam(constants)]),
    scaleByRate(rates.lr),
  );
  const adamPart = clip.length + (decoupled ? 0 : 1);
  return {
    ...fromTransform(name, options, transform),
    ...(decoupled && !constants.amsgrad ? { graph: { name: "adamw" as const, options } } : {}),
    step(params, grads, state, context) {
      // Coupled decay is added to clipped gradients, so there they must be clipped on their own.
      const factor =
        decoupled && options.maxGradNorm !== undefined
          ? globalClip(grads, innerOf(state, 0), options.maxGradNorm)
          : 1;
      if (!decoupled) {
        clip[0]?.update(grads, innerOf(state, 0), params, context);
        decay.update(grads, innerOf(state, adamPart - 1), params, context);
      }
      const moments = innerOf(state, adamPart);
      const bias = adamBias(constants.betas[0], constants.betas[1], constants.eps, context.step);
      for (const [parameter, data] of grads) {
        const step: AdamStep = {
          beta1: constants.betas[0],
          beta2: constants.betas[1],
          bias,
          lr: rates.lr(parameter, context.step),
          decay: decoupled ? rates.weightDecay(parameter) : 0,
          clip: factor,
        };
        const weights = parameterOf(params, parameter, data.length);
        const mu = slotOf(moments, "mu", parameter, data.length);
        const nu = slotOf(moments, "nu", parameter, data.length);
        if (constants.amsgrad) {
          fusedAmsgrad(weights, data, mu, nu, slotOf(moments, "nuMax", parameter, data.length), step);
        } else fusedAdam(weights, data, mu, nu, step);
      }
    },
  };
}
