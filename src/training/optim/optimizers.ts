import { TunesmithError } from "../../errors/index.js";
import { type AdamStep, adamBias, fusedAdam, fusedAmsgrad } from "./fused-adam.js";
import {
  checkGroups,
  type GroupSettings,
  type ParameterGroup,
  requireNumber,
  resolveGroups,
} from "./groups.js";
import { constant, type Schedule } from "./schedules.js";
import { parameterOf, slotOf } from "./state.js";
import {
  type AdamOptions,
  adamDefaults,
  addDecayedWeights,
  applyUpdates,
  chain,
  clipByGlobalNorm,
  innerOf,
  scaleByAdam,
  scaleByLearningRate,
  trace,
} from "./transforms.js";
import type { GradientTransform, Optimizer } from "./types.js";

/** Settings every finished optimiser takes. */
export interface OptimizerOptions {
  /** Learning rate before the schedule. */
  readonly lr: number;
  /** Factor of the learning rate per update. Default: constant 1. */
  readonly schedule?: Schedule;
  /** Weight decay. Default 0, for `adamw` 0.01. */
  readonly weightDecay?: number;
  /** Clip the gradients' global norm to this. Default: no clipping. */
  readonly maxGradNorm?: number;
  /** Learning rates and weight decay by parameter name; the first match applies. */
  readonly groups?: readonly ParameterGroup[];
}

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
  const settings = settingsOf("sgd", options);
  return fromTransform(
    "sgd",
    options,
    chain(
      ...clipping(options),
      addDecayedWeights((name) => settings(name).weightDecay),
      ...(momentum > 0 ? [trace(momentum, { nesterov })] : []),
      scaleByLearningRate((name) => settings(name).lr, options.schedule ?? constant()),
    ),
  );
}

/**
 * An optimiser from any gradient transformation. `options.lr` and `options.schedule` are only reported by
 * `learningRate`; the transformation itself must scale by them.
 */
export function fromTransform(
  name: string,
  options: Pick<OptimizerOptions, "lr" | "schedule" | "groups">,
  transform: GradientTransform,
): Optimizer {
  const schedule = options.schedule ?? constant();
  return {
    name,
    transform,
    learningRate: (step) => options.lr * schedule(step - 1),
    init(params) {
      checkGroups(params, options.groups);
      return transform.init(params);
    },
    step(params, grads, state, context) {
      applyUpdates(params, transform.update(grads, state, params, context));
    },
  };
}

function adamFamily(name: "adam" | "adamw", options: OptimizerOptions & AdamOptions): Optimizer {
  const settings = settingsOf(name, options);
  const constants = adamDefaults(options);
  const schedule = options.schedule ?? constant();
  const decay = addDecayedWeights((parameter) => settings(parameter).weightDecay);
  const clip = clipping(options);
  const decoupled = name === "adamw";
  const transform = chain(
    ...clip,
    ...(decoupled ? [scaleByAdam(constants), decay] : [decay, scaleByAdam(constants)]),
    scaleByLearningRate((parameter) => settings(parameter).lr, schedule),
  );
  const adamPart = clip.length + (decoupled ? 0 : 1);
  return {
    ...fromTransform(name, options, transform),
    step(params, grads, state, context) {
      clip[0]?.update(grads, innerOf(state, 0), params, context);
      if (!decoupled) decay.update(grads, innerOf(state, adamPart - 1), params, context);
      const moments = innerOf(state, adamPart);
      const factor = schedule(context.step - 1);
      const bias = adamBias(constants.betas[0], constants.betas[1], constants.eps, context.step);
      for (const [parameter, data] of grads) {
        const { lr, weightDecay } = settings(parameter);
        const step: AdamStep = {
          beta1: constants.betas[0],
          beta2: constants.betas[1],
          bias,
          lr: lr * factor,
          decay: decoupled ? weightDecay : 0,
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

function clipping(options: OptimizerOptions): GradientTransform[] {
  return options.maxGradNorm === undefined ? [] : [clipByGlobalNorm(options.maxGradNorm)];
}

function settingsOf(name: string, options: OptimizerOptions): (parameter: string) => GroupSettings {
  const { lr, weightDecay = 0, groups } = options;
  requireNumber(`${name}: lr`, lr, 0);
  requireNumber(`${name}: weightDecay`, weightDecay, 0);
  return resolveGroups({ lr, weightDecay }, groups);
}
