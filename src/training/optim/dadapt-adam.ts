import { addDecay, type DAdaptOptions, dadaptFrom } from "./dadapt-common.js";
import { requireNumber } from "./groups.js";
import { createState, parameterOf, scalarOfState, slotOf } from "./state.js";
import { adamDefaults } from "./transforms.js";
import type { Optimizer } from "./types.js";

/** Settings of `dadaptAdam`. */
export interface DAdaptAdamOptions extends DAdaptOptions {
  /** Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number] | undefined;
  /** Default 1e-8. */
  readonly eps?: number | undefined;
  /** Decay weights apart from the gradient, as AdamW. Default false. */
  readonly decouple?: boolean | undefined;
  /** Adam's bias correction. Default false. */
  readonly biasCorrection?: boolean | undefined;
}

const pairOf = (betas: readonly [number, number] | undefined, eps: number | undefined) =>
  adamDefaults({ ...(betas && { betas }), ...(eps !== undefined && { eps }) });

/** Adam's bias correction of a step size, with k updates done before. */
export const biasOf = (correct: boolean, [beta1, beta2]: readonly [number, number], k: number): number =>
  correct ? Math.sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) : 1;

/**
 * Adam with D-Adaptation (arXiv 2301.07733), the numbers of `DAdaptAdam` 3.2: leave lr at 1 and keep your schedule. It
 * finds larger rates than people pick: weight decay may have to be 2 to 4 times larger. A group's `lrMultiplier` is the
 * reference's `layer_scale`.
 *
 * @throws `config-invalid` for a setting out of range.
 *
 * @example
 * ```ts
 * import { cosine, dadaptAdam } from "tunesmith/training";
 * const optimizer = dadaptAdam({ schedule: cosine({ totalSteps: 100 }) });
 * const params = new Map([["w", Float32Array.of(1, -2)]]);
 * const state = optimizer.init(params);
 * optimizer.step(params, new Map([["w", Float32Array.of(0.5, 0.1)]]), state, { step: 1 });
 * console.log(optimizer.report?.(state, 1)); // { d: 1e-6, effectiveLr: 1e-6 }
 * ```
 */
export function dadaptAdam(options: DAdaptAdamOptions = {}): Optimizer {
  const { betas, eps } = pairOf(options.betas, options.eps);
  const { decouple = false, biasCorrection = false } = options;
  const [beta1, beta2] = betas;
  const root = Math.sqrt(beta2);
  return dadaptFrom(options, {
    name: "dadapt-adam",
    scales: true,
    init: (params) => createState(params, ["mu", "nu", "s"], { numerator: 0 }),
    step(params, grads, state, { d, lr, k, scale, weightDecay, grow }) {
      const rate = d * lr * biasOf(biasCorrection, betas, k);
      let [numerator, absolute] = [0, 0];
      for (const [name, grad] of grads) {
        const r = scale(name);
        if (r === 0) continue;
        if (!decouple) addDecay(grad, parameterOf(params, name, grad.length), weightDecay(name));
        const s = slotOf(state, "s", name, grad.length);
        const [mu, nu] = [slotOf(state, "mu", name, grad.length), slotOf(state, "nu", name, grad.length)];
        let [dot, sum] = [0, 0];
        for (let i = 0; i < s.length; i++) {
          const g = grad[i] as number;
          // The root of the second moment before this step, as in the reference.
          dot += (g * (s[i] as number)) / (Math.sqrt(nu[i] as number) + eps);
          mu[i] = beta1 * (mu[i] as number) + r * rate * (1 - beta1) * g;
          nu[i] = beta2 * (nu[i] as number) + (1 - beta2) * g * g;
          s[i] = root * (s[i] as number) + rate * (1 - root) * g;
          sum += Math.abs(s[i] as number);
        }
        numerator += r * rate * dot;
        absolute += r * sum;
      }
      if (absolute === 0) return undefined;
      numerator = root * scalarOfState(state, "numerator") + (1 - root) * numerator;
      state.scalars.numerator = numerator;
      for (const [name, { length }] of grads) {
        if (scale(name) === 0) continue;
        const weights = parameterOf(params, name, length);
        const [mu, nu] = [slotOf(state, "mu", name, length), slotOf(state, "nu", name, length)];
        const kept = decouple ? 1 - weightDecay(name) * rate : 1;
        for (let i = 0; i < length; i++) {
          weights[i] = kept * (weights[i] as number) - (mu[i] as number) / (Math.sqrt(nu[i] as number) + eps);
        }
      }
      return grow(numerator / ((1 - root) * absolute));
    },
  });
}

/** Lion with D-Adaptation (experimental in the reference, `DAdaptLion` 3.2); decay is decoupled. Betas [0.9, 0.99]. */
export function dadaptLion(
  options: DAdaptOptions & { betas?: readonly [number, number] | undefined } = {},
): Optimizer {
  const [beta1, beta2] = pairOf(options.betas ?? [0.9, 0.99], undefined).betas;
  const root = Math.sqrt(beta2);
  return dadaptFrom(options, {
    name: "dadapt-lion",
    init: (params) => createState(params, ["mu", "s"], { numerator: 0 }),
    step(params, grads, state, { d, lr, scale, weightDecay, grow }) {
      const rate = d * lr;
      let [numerator, absolute] = [0, 0];
      for (const [name, grad] of grads) {
        if (scale(name) === 0) continue;
        const weights = parameterOf(params, name, grad.length);
        const [mu, s] = [slotOf(state, "mu", name, grad.length), slotOf(state, "s", name, grad.length)];
        const kept = 1 - rate * weightDecay(name);
        for (let i = 0; i < s.length; i++) {
          const g = grad[i] as number;
          const u = Math.sign(beta1 * (mu[i] as number) + (1 - beta1) * g);
          weights[i] = kept * (weights[i] as number) - rate * u;
          mu[i] = beta2 * (mu[i] as number) + (1 - beta2) * rate * g;
          numerator += rate * u * (s[i] as number);
          s[i] = root * (s[i] as number) + (1 - root) * rate * u;
          absolute += Math.abs(s[i] as number);
        }
      }
      if (absolute === 0) return undefined;
      numerator = root * scalarOfState(state, "numerator") + (1 - root) * numerator;
      state.scalars.numerator = numerator;
      return grow(numerator / ((1 - root) * absolute));
    },
  });
}

/** Adan with D-Adaptation, the numbers of `DAdaptAdan` 3.2. Defaults: betas [0.98, 0.92, 0.99], decay 0.02, eps 1e-8. */
export function dadaptAdan(
  options: DAdaptOptions & {
    betas?: readonly [number, number, number] | undefined;
    eps?: number | undefined;
  } = {},
): Optimizer {
  const { betas = [0.98, 0.92, 0.99], eps = 1e-8 } = options;
  for (const beta of betas) requireNumber("dadapt-adan: beta", beta, 0, 1);
  const [beta1, beta2, beta3] = betas;
  return dadaptFrom(
    { ...options, weightDecay: options.weightDecay ?? 0.02 },
    {
      name: "dadapt-adan",
      init: (params) => createState(params, ["mu", "diff", "nu", "s", "before"], { squares: 0 }),
      step(params, grads, state, { d, lr, k, scale, weightDecay, grow }) {
        const rate = d * lr;
        let [squares, weighted, absolute] = [0, 0, 0];
        for (const [name, grad] of grads) {
          if (scale(name) === 0) continue;
          const [mu, nu] = [slotOf(state, "mu", name, grad.length), slotOf(state, "nu", name, grad.length)];
          const [s, diff] = [slotOf(state, "s", name, grad.length), slotOf(state, "diff", name, grad.length)];
          const before = slotOf(state, "before", name, grad.length);
          if (k === 0) before.set(grad);
          for (let i = 0; i < s.length; i++) {
            const g = grad[i] as number;
            const change = g - (before[i] as number);
            const ahead = g + beta2 * change;
            mu[i] = beta1 * (mu[i] as number) + rate * (1 - beta1) * g;
            diff[i] = beta2 * (diff[i] as number) + rate * (1 - beta2) * change;
            nu[i] = beta3 * (nu[i] as number) + (1 - beta3) * ahead * ahead;
            const under = Math.sqrt(nu[i] as number) + eps;
            squares += (g * g) / under;
            s[i] = beta3 * (s[i] as number) + rate * (1 - beta3) * g;
            weighted += (s[i] as number) ** 2 / under;
            absolute += Math.abs(s[i] as number);
          }
        }
        if (absolute === 0) return undefined;
        squares = beta3 * scalarOfState(state, "squares") + squares * rate * rate * (1 - beta3);
        state.scalars.squares = squares;
        for (const [name, grad] of grads) {
          if (scale(name) === 0) continue;
          const weights = parameterOf(params, name, grad.length);
          const [mu, nu] = [slotOf(state, "mu", name, grad.length), slotOf(state, "nu", name, grad.length)];
          const diff = slotOf(state, "diff", name, grad.length);
          const shrink = 1 + rate * weightDecay(name);
          for (let i = 0; i < weights.length; i++) {
            const step = (mu[i] as number) + beta2 * (diff[i] as number);
            weights[i] = ((weights[i] as number) - step / (Math.sqrt(nu[i] as number) + eps)) / shrink;
          }
          slotOf(state, "before", name, grad.length).set(grad);
        }
        return grow((weighted / (1 - beta3) - squares) / absolute);
      },
    },
  );
}
