import { addDecay, type DAdaptOptions, dadaptFrom } from "./dadapt-common.js";
import { swapIn } from "./finished.js";
import { requireNumber } from "./groups.js";
import { copyParams, createState, parameterOf, scalarOfState, slotOf } from "./state.js";
import { globalNorm, sumOfSquares } from "./transforms.js";
import type { Optimizer, OptimizerState, Params } from "./types.js";

const withStart = (
  params: Params,
  slots: readonly string[],
  scalars: Record<string, number> = {},
): OptimizerState => {
  const state = createState(params, slots, scalars);
  return { ...state, slots: { ...state.slots, x0: copyParams(params) } };
};

/**
 * Dual averaging with D-Adaptation, algorithm 1 of arXiv 2301.07733: for convex functions the estimate never exceeds the
 * distance from the start to the solution. The good weights are the average, in evaluation. Made for theory; train with
 * `dadaptAdam`.
 */
export function dadaptDualAveraging(options: DAdaptOptions = {}): Optimizer {
  return dadaptFrom(options, {
    name: "dadapt-da",
    init: (params) => {
      const state = withStart(params, ["s"], { squares: 0, weighted: 0, total: 0 });
      return { ...state, slots: { ...state.slots, average: copyParams(params) } };
    },
    step(params, grads, state, { d, lr, k, scale, weightDecay, grow }) {
      for (const [name, grad] of grads) {
        addDecay(grad, parameterOf(params, name, grad.length), weightDecay(name));
        if (scale(name) === 0) grad.fill(0);
      }
      const square = globalNorm(grads) ** 2;
      if (square === 0) return undefined;
      const weight = d * lr;
      // gamma_0 and gamma_1 are both 1 / |g_0|.
      const before = k === 0 ? square : scalarOfState(state, "squares");
      const squares = scalarOfState(state, "squares") + square;
      const weighted = scalarOfState(state, "weighted") + (weight * weight * square) / Math.sqrt(before);
      const total = scalarOfState(state, "total") + weight;
      Object.assign(state.scalars, { squares, weighted, total });
      const gamma = 1 / Math.sqrt(squares);
      let sSquare = 0;
      for (const [name, grad] of grads) {
        const length = grad.length;
        const [weights, s] = [parameterOf(params, name, length), slotOf(state, "s", name, length)];
        const [x0, average] = [slotOf(state, "x0", name, length), slotOf(state, "average", name, length)];
        for (let i = 0; i < length; i++) {
          const x = average[i] as number;
          average[i] = x + (weight / total) * ((weights[i] as number) - x);
          s[i] = (s[i] as number) + weight * (grad[i] as number);
          weights[i] = (x0[i] as number) - gamma * (s[i] as number);
        }
        sSquare += sumOfSquares(s);
      }
      return grow((gamma * sSquare - weighted) / (2 * Math.sqrt(sSquare)));
    },
    enterEvaluation: (params, state) => swapIn(params, state.slots.average ?? new Map()),
  });
}

/**
 * SGD with D-Adaptation (arXiv 2301.07733), the numbers of `DAdaptSGD` 3.2: leave lr at 1 and keep your schedule.
 *
 * @param options.momentum By primal averaging. Default 0.
 */
export function dadaptSgd(options: DAdaptOptions & { momentum?: number | undefined } = {}): Optimizer {
  const { momentum = 0 } = options;
  requireNumber("dadapt-sgd: momentum", momentum, 0, 1);
  const keep = 1 - momentum;
  return dadaptFrom(options, {
    name: "dadapt-sgd",
    init: (params) => withStart(params, ["s"], { numerator: 0, firstNorm: 0 }),
    step(params, grads, state, { d, lr, k, scale, weightDecay, grow }) {
      if (k === 0) state.scalars.firstNorm = normOfMoving(grads, scale);
      const firstNorm = scalarOfState(state, "firstNorm");
      if (firstNorm === 0) return undefined;
      const rate = (d * lr) / firstNorm;
      let numerator = scalarOfState(state, "numerator");
      let sSquare = 0;
      for (const [name, grad] of grads) {
        if (scale(name) === 0) continue;
        addDecay(grad, parameterOf(params, name, grad.length), weightDecay(name));
        const s = slotOf(state, "s", name, grad.length);
        let dot = 0;
        for (let i = 0; i < s.length; i++) {
          dot += (grad[i] as number) * (s[i] as number);
          s[i] = (s[i] as number) + rate * (grad[i] as number);
        }
        numerator += rate * dot;
        sSquare += sumOfSquares(s);
      }
      if (sSquare === 0) return undefined;
      state.scalars.numerator = numerator;
      for (const [name, { length }] of grads) {
        const [s, x0] = [slotOf(state, "s", name, length), slotOf(state, "x0", name, length)];
        const weights = parameterOf(params, name, length);
        for (let i = 0; i < length; i++) {
          const z = (x0[i] as number) - (s[i] as number);
          weights[i] = (1 - keep) * (weights[i] as number) + keep * z;
        }
      }
      return grow((2 * numerator) / Math.sqrt(sSquare));
    },
  });
}

/** Norm of the gradients of parameters that are not frozen. The reference leaves weight decay out here, too. */
function normOfMoving(grads: Params, scale: (name: string) => number): number {
  return globalNorm(new Map([...grads].filter(([name]) => scale(name) !== 0)));
}

/** Adagrad with D-Adaptation (arXiv 2301.07733), the numbers of `DAdaptAdaGrad` 3.2. Defaults: momentum 0, eps 1e-6. */
export function dadaptAdagrad(
  options: DAdaptOptions & { momentum?: number | undefined; eps?: number | undefined } = {},
): Optimizer {
  const { momentum = 0, eps = 1e-6 } = options;
  requireNumber("dadapt-adagrad: momentum", momentum, 0, 1);
  requireNumber("dadapt-adagrad: eps", eps, 0);
  const keep = 1 - momentum;
  return dadaptFrom(options, {
    name: "dadapt-adagrad",
    init(params) {
      const state = withStart(params, ["s", "alpha"], { weighted: 0, absolute: 0, squares: 0 });
      for (const data of state.slots.alpha?.values() ?? []) data.fill(1e-6);
      return state;
    },
    step(params, grads, state, { d, lr, scale, weightDecay, grow }) {
      const rate = d * lr;
      let [weighted, absolute] = [scalarOfState(state, "weighted"), scalarOfState(state, "absolute")];
      let squares = 0;
      for (const [name, grad] of grads) {
        if (scale(name) === 0) continue;
        addDecay(grad, parameterOf(params, name, grad.length), weightDecay(name));
        const [s, alpha] = [slotOf(state, "s", name, grad.length), slotOf(state, "alpha", name, grad.length)];
        for (let i = 0; i < s.length; i++) {
          const g = grad[i] as number;
          const before = s[i] as number;
          const rootBefore = Math.sqrt(alpha[i] as number) + eps;
          alpha[i] = (alpha[i] as number) + g * g;
          s[i] = before + rate * g;
          const root = Math.sqrt(alpha[i] as number) + eps;
          const after = s[i] as number;
          squares += (g * g) / root;
          weighted += (after * after) / root - (before * before) / rootBefore;
          absolute += Math.abs(after) - Math.abs(before);
        }
      }
      if (absolute === 0) return undefined;
      squares = scalarOfState(state, "squares") + rate * rate * squares;
      Object.assign(state.scalars, { weighted, absolute, squares });
      for (const [name, { length }] of grads) {
        if (scale(name) === 0) continue;
        const [s, x0] = [slotOf(state, "s", name, length), slotOf(state, "x0", name, length)];
        const [weights, alpha] = [parameterOf(params, name, length), slotOf(state, "alpha", name, length)];
        for (let i = 0; i < length; i++) {
          const z = (x0[i] as number) - (s[i] as number) / (Math.sqrt(alpha[i] as number) + eps);
          weights[i] = (1 - keep) * (weights[i] as number) + keep * z;
        }
      }
      return grow((weighted - squares) / absolute);
    },
  });
}
