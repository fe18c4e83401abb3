import { TunesmithError } from "../../errors/index.js";
import { clipping, fromStep, type OptimizerOptions, ratesOf } from "./finished.js";
import { requireNumber } from "./groups.js";
import { createState, parameterOf, shapeOfParameter, shapeSlot, slotOf } from "./state.js";
import { multiply, sumOfSquares } from "./transforms.js";
import type { Optimizer, OptimizerState, Params, Shapes } from "./types.js";

/** Settings of Adafactor. */
export interface AdafactorOptions extends Omit<OptimizerOptions, "lr"> {
  /** Learning rate; with `relativeStep` a factor of the relative step, 1 by default. Required without it. */
  readonly lr?: number | undefined;
  /** Added to squared gradients. Default 1e-30. */
  readonly eps?: number | undefined;
  /** Least scale of a parameter. Default 1e-3. */
  readonly minScale?: number | undefined;
  /** Largest root mean square of an update. Default 1. */
  readonly clipThreshold?: number | undefined;
  /** The second moment decays by 1 - t^decayRate. Default -0.8. */
  readonly decayRate?: number | undefined;
  /** Decay of the first moment. Default: no first moment. */
  readonly beta1?: number | undefined;
  /** Step size min(0.01, 1/sqrt(t)). Default true. */
  readonly relativeStep?: boolean | undefined;
  /** With `relativeStep`: min(1e-6 t, 1/sqrt(t)). Default false. */
  readonly warmupInit?: boolean | undefined;
  /** Multiply the step by the parameter's root mean square. Default true. */
  readonly scaleParameter?: boolean | undefined;
  /** Keep row and column means of matrices' second moments instead of all of them. Default true. */
  readonly factored?: boolean | undefined;
}

/** Options with their defaults filled in; `rate` is the step size before a parameter's scale. */
export function adafactorSettings(options: AdafactorOptions) {
  const {
    eps = 1e-30,
    minScale = 1e-3,
    clipThreshold = 1,
    decayRate = -0.8,
    beta1,
    factored = true,
  } = options;
  const { relativeStep = true, warmupInit = false, scaleParameter = true } = options;
  if (!relativeStep && options.lr === undefined) {
    throw new TunesmithError("config-invalid", "adafactor without relativeStep needs lr", { fix: "give lr" });
  }
  if (warmupInit && !relativeStep) {
    throw new TunesmithError("config-invalid", "adafactor: warmupInit is set without relativeStep", {
      fix: "set relativeStep, or use a schedule with warm-up",
    });
  }
  requireNumber("adafactor: eps", eps, 0);
  requireNumber("adafactor: minScale", minScale, 0);
  requireNumber("adafactor: clipThreshold", clipThreshold, Number.MIN_VALUE);
  requireNumber("adafactor: beta1", beta1 ?? 0, 0, 1);
  const full = { ...options, lr: options.lr ?? 1 };
  const rates = ratesOf("adafactor", full);
  const relative = (step: number): number =>
    relativeStep ? Math.min(warmupInit ? 1e-6 * step : 1e-2, 1 / Math.sqrt(step)) : 1;
  return {
    ...{ full, rates, eps, minScale, clipThreshold, beta1, factored, scaleParameter },
    /** Decay of the second moment at a step. */
    beta2: (step: number): number => 1 - step ** decayRate,
    rate: (name: string, step: number): number => rates.lr(name, step) * relative(step),
  };
}

/**
 * Adafactor (arXiv 1804.04235), the numbers of transformers' `Adafactor`: of a matrix's second moment only the row and
 * column means are kept. Needs the parameters' shapes unless `factored` is false; more than two axes count as a stack
 * of matrices.
 *
 * @throws `config-invalid` for a setting out of range, and from `init` without shapes.
 *
 * @example
 * ```ts
 * import { adafactor } from "tunesmith/training";
 * const optimizer = adafactor({ lr: 1e-3, relativeStep: false, scaleParameter: false });
 * const params = new Map([["w", new Float32Array(6)]]);
 * const state = optimizer.init(params, new Map([["w", [2, 3]]]));
 * optimizer.step(params, new Map([["w", Float32Array.of(1, 2, 3, 4, 5, 6)]]), state, { step: 1 });
 * ```
 */
export function adafactor(options: AdafactorOptions = {}): Optimizer {
  const settings = adafactorSettings(options);
  const { rates, clipThreshold, beta1, minScale, scaleParameter } = settings;
  const [clip] = clipping(settings.full);
  const optimizer = fromStep("adafactor", settings.full, {
    init: (params, shapes) => startState(params, shapes, settings, clip?.init(params)),
    step(params, grads, state, context) {
      if (clip) clip.update(grads, state.inner[0] as OptimizerState, params, context);
      const beta2 = settings.beta2(context.step);
      for (const [name, update] of grads) {
        const weights = parameterOf(params, name, update.length);
        const scale = scaleParameter ? Math.max(minScale, rms(weights)) : 1;
        const lr = settings.rate(name, context.step) * scale;
        const isMatrix = state.slots.row?.has(name) ?? false;
        if (isMatrix) scaleFactored(update, state, name, beta2, settings.eps);
        else scaleFull(update, slotOf(state, "nu", name, update.length), beta2, settings.eps);
        multiply(update, lr / Math.max(1, rms(update) / clipThreshold));
        const decay = rates.weightDecay(name) * lr;
        const mu = beta1 === undefined ? undefined : slotOf(state, "mu", name, update.length);
        for (let i = 0; i < update.length; i++) {
          let u = update[i] as number;
          if (mu && beta1 !== undefined) {
            mu[i] = (mu[i] as number) * beta1 + u * (1 - beta1);
            u = mu[i] as number;
          }
          const w = weights[i] as number;
          weights[i] = w - decay * w - u;
        }
      }
    },
  });
  return { ...optimizer, graph: settings.factored ? { name: "adafactor", options } : undefined };
}

type Settings = ReturnType<typeof adafactorSettings>;

function startState(
  params: Params,
  shapes: Shapes | undefined,
  { factored, beta1 }: Settings,
  clip: OptimizerState | undefined,
): OptimizerState {
  const shape = factored ? shapeSlot("adafactor", params, shapes) : new Map<string, Float32Array>();
  const nu = new Map<string, Float32Array>();
  const row = new Map<string, Float32Array>();
  const col = new Map<string, Float32Array>();
  for (const [name, data] of params) {
    const dims = shape.get(name);
    if (dims && dims.length >= 2) {
      row.set(name, new Float32Array(data.length / (dims.at(-1) || 1)));
      col.set(name, new Float32Array(data.length / (dims.at(-2) || 1)));
    } else nu.set(name, new Float32Array(data.length));
  }
  const first = beta1 === undefined ? {} : createState(params, ["mu"]).slots;
  return { slots: { shape, nu, row, col, ...first }, scalars: {}, inner: clip ? [clip] : [] };
}

const rms = (data: Float32Array): number => Math.sqrt(sumOfSquares(data) / data.length);

function scaleFull(data: Float32Array, nu: Float32Array, beta2: number, eps: number): void {
  for (let i = 0; i < data.length; i++) {
    const g = data[i] as number;
    nu[i] = (nu[i] as number) * beta2 + (g * g + eps) * (1 - beta2);
    data[i] = g / Math.sqrt(nu[i] as number);
  }
}

/** Row and column means of the squares, and g divided by the root of their normalised outer product. */
function scaleFactored(
  data: Float32Array,
  state: OptimizerState,
  name: string,
  beta2: number,
  eps: number,
): void {
  const [rows = 1, cols = 1] = shapeOfParameter(state, name).slice(-2);
  const stack = data.length / (rows * cols);
  const row = slotOf(state, "row", name, stack * rows);
  const col = slotOf(state, "col", name, stack * cols);
  for (let at = 0; at < stack; at++) {
    const matrix = data.subarray(at * rows * cols, (at + 1) * rows * cols);
    const rowOf = row.subarray(at * rows, (at + 1) * rows);
    const colOf = col.subarray(at * cols, (at + 1) * cols);
    averageInto(rowOf, colOf, matrix, beta2, eps);
    const mean = rowOf.reduce((sum, value) => sum + value, 0) / rows;
    const byCol = Float64Array.from(colOf, (value) => 1 / Math.sqrt(value));
    for (let i = 0; i < rows; i++) {
      const byRow = 1 / Math.sqrt((rowOf[i] as number) / mean);
      for (let j = 0; j < cols; j++) {
        matrix[i * cols + j] = (matrix[i * cols + j] as number) * byRow * (byCol[j] as number);
      }
    }
  }
}

function averageInto(
  row: Float32Array,
  col: Float32Array,
  matrix: Float32Array,
  beta2: number,
  eps: number,
): void {
  const cols = col.length;
  const ofCols = new Float64Array(cols);
  for (let i = 0; i < row.length; i++) {
    let sum = 0;
    for (let j = 0; j < cols; j++) {
      const g = matrix[i * cols + j] as number;
      const square = g * g + eps;
      sum += square;
      ofCols[j] = (ofCols[j] as number) + square;
    }
    row[i] = (row[i] as number) * beta2 + (sum / cols) * (1 - beta2);
  }
  for (let j = 0; j < cols; j++) {
    col[j] = (col[j] as number) * beta2 + ((ofCols[j] as number) / row.length) * (1 - beta2);
  }
}
