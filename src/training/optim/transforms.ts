import { TunesmithError } from "../../errors/index.js";
import { adamBias } from "./fused-adam.js";
import { requireNumber } from "./groups.js";
import type { Schedule } from "./schedules.js";
import { createState, parameterOf, slotOf } from "./state.js";
import type { GradientTransform, OptimizerState, Params } from "./types.js";

/** A number for every parameter, or one that depends on its name. */
export type PerParameter = number | ((name: string) => number);

const of = (value: PerParameter, name: string): number => (typeof value === "number" ? value : value(name));

/**
 * Applies transformations one after the other; the state of part i is `state.inner[i]`.
 *
 * @example
 * ```ts
 * import { applyUpdates, chain, clipByGlobalNorm, scale, scaleByAdam } from "tunesmith/training";
 * const transform = chain(clipByGlobalNorm(1), scaleByAdam(), scale(-1e-3));
 * const params = new Map([["w", Float32Array.of(1, 2)]]);
 * const state = transform.init(params);
 * const grads = new Map([["w", Float32Array.of(0.1, -0.2)]]);
 * applyUpdates(params, transform.update(grads, state, params, { step: 1 }));
 * ```
 */
export function chain(...parts: readonly GradientTransform[]): GradientTransform {
  return {
    init: (params, shapes) => ({
      slots: {},
      scalars: {},
      inner: parts.map((part) => part.init(params, shapes)),
    }),
    update(grads, state, params, context) {
      return parts.reduce(
        (updates, part, index) => part.update(updates, innerOf(state, index), params, context),
        grads,
      );
    },
  };
}

/** The state of part `index` of a chain. */
export function innerOf(state: OptimizerState, index: number): OptimizerState {
  const inner = state.inner[index];
  if (!inner) {
    throw new TunesmithError("checkpoint-mismatch", `the optimiser state has no part ${index} of the chain`, {
      fix: "make the state with init() of the same optimiser",
    });
  }
  return inner;
}

/** Euclidean norm of all arrays together, summed in float64; finite exactly when every value is. */
export function globalNorm(tensors: Params): number {
  let sum = 0;
  for (const data of tensors.values()) sum += sumOfSquares(data);
  return Math.sqrt(sum);
}

/** Sum of squares in float64. */
export function sumOfSquares(data: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  // Four running sums shorten the chain of dependent additions, which is what bounds this loop.
  const whole = data.length - (data.length % 4);
  for (let i = 0; i < whole; i += 4) {
    const x = data[i] as number;
    const y = data[i + 1] as number;
    const z = data[i + 2] as number;
    const u = data[i + 3] as number;
    a += x * x;
    b += y * y;
    c += z * z;
    d += u * u;
  }
  for (let i = whole; i < data.length; i++) a += (data[i] as number) ** 2;
  return a + b + (c + d);
}

/**
 * Scales all gradients together so that their norm is at most `maxNorm`, as `torch.nn.utils.clip_grad_norm_`
 * (arXiv 1211.5063). The norm before clipping is left in `state.scalars.norm` for metrics.
 */
export function clipByGlobalNorm(maxNorm: number): GradientTransform {
  requireNumber("clipByGlobalNorm: maxNorm", maxNorm, 0);
  return {
    init: (params) => createState(params, [], { norm: 0 }),
    update(grads, state) {
      const factor = globalClip(grads, state, maxNorm);
      if (factor < 1) for (const data of grads.values()) multiply(data, factor);
      return grads;
    },
  };
}

/** The factor of `clipByGlobalNorm`, which leaves the norm in its state. */
export function globalClip(grads: Params, state: OptimizerState, maxNorm: number): number {
  const norm = globalNorm(grads);
  state.scalars.norm = norm;
  return clipFactor(norm, maxNorm);
}

/** What gradients of this norm are multiplied by; at most 1. */
export const clipFactor = (norm: number, maxNorm: number): number => Math.min(1, maxNorm / (norm + 1e-6));

/** Clamps every gradient value to [-limit, limit]. */
export function clipByValue(limit: number): GradientTransform {
  requireNumber("clipByValue: limit", limit, 0);
  return stateless((data) => {
    for (let i = 0; i < data.length; i++) {
      const g = data[i] as number;
      if (g > limit) data[i] = limit;
      else if (g < -limit) data[i] = -limit;
    }
  });
}

/** Adam's constants (arXiv 1412.6980). */
export interface AdamOptions {
  /** Decay of the first and second moment. Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number];
  /** Added to the root of the second moment. Default 1e-8. */
  readonly eps?: number;
  /** Divide by the largest second moment seen so far (arXiv 1904.09237). Default false. */
  readonly amsgrad?: boolean;
}

/** Divides the bias-corrected first moment by the root of the second: Adam without its learning rate. */
export function scaleByAdam(options: AdamOptions = {}): GradientTransform {
  const { betas, eps, amsgrad } = adamDefaults(options);
  const [beta1, beta2] = betas;
  return {
    init: (params) => createState(params, amsgrad ? ["mu", "nu", "nuMax"] : ["mu", "nu"]),
    update(grads, state, _params, { step }) {
      const { factor, offset } = adamBias(beta1, beta2, eps, step);
      for (const [name, data] of grads) {
        const mu = slotOf(state, "mu", name, data.length);
        const nu = slotOf(state, "nu", name, data.length);
        const nuMax = amsgrad ? slotOf(state, "nuMax", name, data.length) : undefined;
        for (let i = 0; i < data.length; i++) {
          const g = data[i] as number;
          const m = (mu[i] as number) + (g - (mu[i] as number)) * (1 - beta1);
          const n = (nu[i] as number) * beta2 + g * g * (1 - beta2);
          mu[i] = m;
          nu[i] = n;
          if (nuMax) nuMax[i] = Math.max(nuMax[i] as number, nu[i] as number);
          const second = (nuMax ?? nu)[i] as number;
          data[i] = (mu[i] as number) / (Math.sqrt(second) * factor + offset);
        }
      }
      return grads;
    },
  };
}

/** Adam's options with defaults filled in and ranges checked. */
export function adamDefaults(options: AdamOptions): Required<AdamOptions> {
  const { betas = [0.9, 0.999], eps = 1e-8, amsgrad = false } = options;
  requireNumber("Adam: beta1", betas[0], 0, 1);
  requireNumber("Adam: beta2", betas[1], 0, 1);
  requireNumber("Adam: eps", eps, 0);
  return { betas, eps, amsgrad };
}

/**
 * Adds `weightDecay * parameter` to the updates. Before Adam or momentum this is L2 regularisation, after it the
 * decoupled decay of AdamW (arXiv 1711.05101).
 *
 * @param mask Parameters to decay. Default: all.
 */
export function addDecayedWeights(
  weightDecay: PerParameter,
  mask: (name: string) => boolean = () => true,
): GradientTransform {
  return {
    init: (params) => createState(params),
    update(grads, _state, params) {
      for (const [name, data] of grads) {
        const decay = mask(name) ? of(weightDecay, name) : 0;
        if (decay === 0) continue;
        const weights = parameterOf(params, name, data.length);
        for (let i = 0; i < data.length; i++) data[i] = (data[i] as number) + decay * (weights[i] as number);
      }
      return grads;
    },
  };
}

/** Multiplies updates by a constant, or one constant per parameter. */
export function scale(factor: PerParameter): GradientTransform {
  return stateless((data, name) => {
    multiply(data, of(factor, name));
  });
}

/** Multiplies updates by a schedule's value at `step - 1`. */
export function scaleBySchedule(schedule: Schedule): GradientTransform {
  return stateless((data, _name, step) => {
    multiply(data, schedule(step - 1));
  });
}

/** Multiplies updates by minus the learning rate: `-lr * schedule(step - 1)`. The last part of an optimiser. */
export function scaleByLearningRate(lr: PerParameter, schedule: Schedule): GradientTransform {
  return scaleByRate((name, step) => of(lr, name) * schedule(step - 1));
}

/** Multiplies updates by minus a rate that depends on the parameter's name and the 1-based step. */
export function scaleByRate(rate: (name: string, step: number) => number): GradientTransform {
  return stateless((data, name, step) => {
    multiply(data, -rate(name, step));
  });
}

/** Momentum: a decaying sum of gradients, `buffer = momentum * buffer + g`, as in `torch.optim.SGD`. */
export function trace(momentum: number, options: { nesterov?: boolean } = {}): GradientTransform {
  requireNumber("momentum", momentum, 0, 1);
  const nesterov = options.nesterov ?? false;
  return {
    init: (params) => createState(params, ["trace"]),
    update(grads, state) {
      for (const [name, data] of grads) {
        const buffer = slotOf(state, "trace", name, data.length);
        for (let i = 0; i < data.length; i++) {
          const g = data[i] as number;
          buffer[i] = momentum * (buffer[i] as number) + g;
          data[i] = nesterov ? g + momentum * (buffer[i] as number) : (buffer[i] as number);
        }
      }
      return grads;
    },
  };
}

/**
 * Adds updates to parameters in place.
 *
 * @throws `tensor-not-found` for an update without parameter, `shape-mismatch` for one of another size.
 */
export function applyUpdates(params: Params, updates: Params): void {
  for (const [name, data] of updates) {
    const weights = parameterOf(params, name, data.length);
    for (let i = 0; i < data.length; i++) weights[i] = (weights[i] as number) + (data[i] as number);
  }
}

/** A transformation of each array on its own, without memory. */
export function stateless(
  apply: (data: Float32Array, name: string, step: number) => void,
): GradientTransform {
  return {
    init: (params) => createState(params),
    update(grads, _state, _params, { step }) {
      for (const [name, data] of grads) apply(data, name, step);
      return grads;
    },
  };
}

/** Multiplies an array by a number in place. */
export function multiply(data: Float32Array, factor: number): void {
  if (factor === 1) return;
  for (let i = 0; i < data.length; i++) data[i] = (data[i] as number) * factor;
}
