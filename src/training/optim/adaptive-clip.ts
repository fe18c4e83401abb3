import { requireNumber } from "./groups.js";
import { createState, parameterOf, shapeOfParameter, shapeSlot } from "./state.js";
import { multiply, sumOfSquares } from "./transforms.js";
import type { GradientTransform } from "./types.js";

/**
 * Adaptive gradient clipping (arXiv 2102.06171): the gradient of every unit (a row of a matrix, a whole vector) is
 * scaled down to at most `threshold` times the norm of that unit's weights. Needs the parameters' shapes.
 *
 * @param threshold Default 0.01.
 * @param options.eps Least norm of a unit's weights. Default 1e-3.
 */
export function clipAdaptive(threshold = 0.01, { eps = 1e-3 }: { eps?: number } = {}): GradientTransform {
  requireNumber("clipAdaptive: threshold", threshold, Number.MIN_VALUE);
  requireNumber("clipAdaptive: eps", eps, 0);
  return {
    init: (params, shapes) => ({
      ...createState(params),
      slots: { shape: shapeSlot("adaptive clipping", params, shapes) },
    }),
    update(grads, state, params) {
      for (const [name, grad] of grads) {
        const shape = shapeOfParameter(state, name);
        const units = shape.length > 1 ? (shape[0] as number) : 1;
        const size = grad.length / Math.max(1, units);
        const weights = parameterOf(params, name, grad.length);
        for (let unit = 0; unit < units; unit++) {
          const own = grad.subarray(unit * size, (unit + 1) * size);
          const most =
            threshold *
            Math.max(eps, Math.sqrt(sumOfSquares(weights.subarray(unit * size, (unit + 1) * size))));
          const norm = Math.sqrt(sumOfSquares(own));
          if (norm > most) multiply(own, most / norm);
        }
      }
      return grads;
    },
  };
}
