import { TunesmithError } from "../../errors/index.js";
import { innerState, swapIn, wrapped } from "./finished.js";
import { requireNumber } from "./groups.js";
import { copyParams, parameterOf, scalarOfState, slotOf } from "./state.js";
import type { GradientTransform, Optimizer, OptimizerState, Params } from "./types.js";

const around = (
  inner: OptimizerState,
  slots: Record<string, Params>,
  scalars: Record<string, number> = {},
): OptimizerState => ({ slots, scalars, inner: [inner] });

/**
 * Puts gradient transformations, such as clipping, before any optimiser.
 *
 * @example
 * ```ts
 * import { clipAdaptive, clipByGlobalNorm, clipped, lion } from "tunesmith/training";
 * const optimizer = clipped(lion({ lr: 1e-4 }), [clipByGlobalNorm(1)]);
 * console.log(optimizer.name, clipAdaptive(0.01));
 * ```
 */
export function clipped(inner: Optimizer, before: readonly GradientTransform[]): Optimizer {
  const name = "clipped";
  const optimizer = wrapped(inner, name, {
    init: (initInner, params, shapes) => ({
      slots: {},
      scalars: {},
      inner: [initInner(params, shapes), ...before.map((part) => part.init(params, shapes))],
    }),
    step(params, grads, state, context) {
      const updates = before.reduce(
        (values, part, at) => part.update(values, state.inner[at + 1] as OptimizerState, params, context),
        grads,
      );
      inner.step(params, updates, innerState(state), context);
    },
  });
  const { graph } = inner;
  if (!graph) return { ...optimizer, name: inner.name };
  return {
    ...optimizer,
    name: inner.name,
    graph: {
      ...graph,
      before: (grads, state, params, context) =>
        before.reduce(
          (values, part, at) => part.update(values, state.inner[at + 1] as OptimizerState, params, context),
          grads,
        ),
      stateOf: innerState,
    },
  };
}

/**
 * Lookahead (arXiv 1907.08610): every `every` updates, slow weights move a share `alpha` towards the fast ones, and these
 * start again from there. Defaults: every 5, alpha 0.5.
 */
export function lookahead(
  inner: Optimizer,
  { every = 5, alpha = 0.5 }: { every?: number | undefined; alpha?: number | undefined } = {},
): Optimizer {
  requireCount("lookahead: every", every);
  requireNumber("lookahead: alpha", alpha, 0, 1 + Number.EPSILON);
  return wrapped(inner, "lookahead", {
    init: (initInner, params, shapes) => around(initInner(params, shapes), { slow: copyParams(params) }),
    step(params, grads, state, context) {
      inner.step(params, grads, innerState(state), context);
      if (context.step % every !== 0) return;
      for (const [name, fast] of params) {
        const slow = slotOf(state, "slow", name, fast.length);
        for (let i = 0; i < fast.length; i++) {
          slow[i] = (slow[i] as number) + alpha * ((fast[i] as number) - (slow[i] as number));
        }
        fast.set(slow);
      }
    },
  });
}

/** The weights an average holds, entered for evaluation. */
const enterSlot = (slot: string) => (params: Params, state: OptimizerState) =>
  swapIn(params, state.slots[slot] ?? new Map());

/**
 * An exponential moving average of the weights, used for evaluation and as the result.
 *
 * @param options.decay Default 0.999.
 * @param options.warmup Use at most (1 + t) / (10 + t), so that a short run does not average its start. Default true.
 */
export function ema(
  inner: Optimizer,
  { decay = 0.999, warmup = true }: { decay?: number | undefined; warmup?: boolean | undefined } = {},
): Optimizer {
  requireNumber("ema: decay", decay, 0, 1);
  return wrapped(inner, "ema", {
    init: (initInner, params, shapes) => around(initInner(params, shapes), { average: copyParams(params) }),
    step(params, grads, state, context) {
      inner.step(params, grads, innerState(state), context);
      const { step } = context;
      const share = 1 - (warmup ? Math.min(decay, (1 + step) / (10 + step)) : decay);
      blend(params, state, share);
    },
    enterEvaluation: enterSlot("average"),
  });
}

/**
 * Stochastic weight averaging (arXiv 1803.05407): the mean of the weights after update `start` and every `every` updates
 * from there, used for evaluation and as the result. Default every 1.
 */
export function swa(
  inner: Optimizer,
  { start, every = 1 }: { start: number; every?: number | undefined },
): Optimizer {
  requireCount("swa: start", start);
  requireCount("swa: every", every);
  return wrapped(inner, "swa", {
    init: (initInner, params, shapes) =>
      around(initInner(params, shapes), { average: copyParams(params) }, { count: 0 }),
    step(params, grads, state, context) {
      inner.step(params, grads, innerState(state), context);
      if (context.step < start || (context.step - start) % every !== 0) return;
      const count = scalarOfState(state, "count") + 1;
      state.scalars.count = count;
      blend(params, state, 1 / count);
    },
    enterEvaluation(params, state) {
      if (scalarOfState(state, "count") > 0) return enterSlot("average")(params, state);
      return inner.enterEvaluation?.(params, innerState(state)) ?? (() => {});
    },
  });
}

function blend(params: Params, state: OptimizerState, share: number): void {
  for (const [name, weights] of params) {
    const average = slotOf(state, "average", name, weights.length);
    for (let i = 0; i < weights.length; i++) {
      average[i] = (average[i] as number) + share * ((weights[i] as number) - (average[i] as number));
    }
  }
}

/**
 * Sharpness-aware minimisation (arXiv 2010.01412): the gradient is taken at the worst point within `rho`. It costs a
 * second gradient per update, for which the loop calls `perturb`.
 *
 * @param options.rho Default 0.05.
 * @param options.adaptive A distance relative to each weight (ASAM, arXiv 2102.11600); then rho 0.5 to 2. Default false.
 * @throws `config-invalid` from `step` when `perturb` was not called for it.
 *
 * @example
 * ```ts
 * import { sam, sgd } from "tunesmith/training";
 * const optimizer = sam(sgd({ lr: 0.1 }), { rho: 0.05 });
 * const params = new Map([["w", Float32Array.of(2)]]);
 * const state = optimizer.init(params);
 * const grads = () => new Map([...params].map(([name, data]) => [name, data.slice()] as const)); // of |w|² / 2
 * const restore = optimizer.perturb?.(params, grads(), state, { step: 1 });
 * const second = grads();
 * restore?.();
 * optimizer.step(params, second, state, { step: 1 });
 * ```
 */
export function sam(
  inner: Optimizer,
  { rho = 0.05, adaptive = false }: { rho?: number | undefined; adaptive?: boolean | undefined } = {},
): Optimizer {
  requireNumber("sam: rho", rho, 0);
  return wrapped(inner, adaptive ? "asam" : "sam", {
    init: (initInner, params, shapes) => around(initInner(params, shapes), {}, { perturbed: 0, norm: 0 }),
    perturb(params, grads, state, { step }) {
      state.scalars.perturbed = step;
      return climb(params, grads, state, rho, adaptive);
    },
    step(params, grads, state, context) {
      if (scalarOfState(state, "perturbed") !== context.step) {
        throw new TunesmithError("config-invalid", `sam: update ${context.step} has no second gradient`, {
          fix: "call perturb, compute the gradients again, restore, then step",
        });
      }
      inner.step(params, grads, innerState(state), context);
    },
  });
}

function climb(
  params: Params,
  grads: Params,
  state: OptimizerState,
  rho: number,
  adaptive: boolean,
): () => void {
  let sum = 0;
  for (const [name, grad] of grads) {
    const weights = parameterOf(params, name, grad.length);
    for (let i = 0; i < grad.length; i++) {
      sum += ((grad[i] as number) * (adaptive ? Math.abs(weights[i] as number) : 1)) ** 2;
    }
  }
  const norm = Math.sqrt(sum);
  state.scalars.norm = norm;
  const before = copyParams(params);
  const factor = rho / (norm + 1e-12);
  for (const [name, grad] of grads) {
    const weights = parameterOf(params, name, grad.length);
    for (let i = 0; i < grad.length; i++) {
      const w = weights[i] as number;
      weights[i] = w + factor * (grad[i] as number) * (adaptive ? w * w : 1);
    }
  }
  return () => {
    for (const [name, data] of before) params.get(name)?.set(data);
  };
}

function requireCount(what: string, value: number): void {
  requireNumber(what, value, 1);
  if (Number.isSafeInteger(value)) return;
  throw new TunesmithError("config-invalid", `${what} is ${value}`, {
    fix: "give a whole number of at least 1",
  });
}

/**
 * Runs something on an optimiser's good weights (`enterEvaluation`), and puts the trained ones back.
 *
 * @example
 * ```ts
 * import { adamw, ema, onEvaluationWeights } from "tunesmith/training";
 * const optimizer = ema(adamw({ lr: 1e-3 }));
 * const params = new Map([["w", Float32Array.of(1)]]);
 * const state = optimizer.init(params);
 * const loss = await onEvaluationWeights(optimizer, params, state, async () => params.get("w")?.[0]);
 * console.log(loss);
 * ```
 */
export async function onEvaluationWeights<T>(
  optimizer: Optimizer,
  params: Params,
  state: OptimizerState,
  run: () => Promise<T>,
): Promise<T> {
  const leave = optimizer.enterEvaluation?.(params, state);
  try {
    return await run();
  } finally {
    leave?.();
  }
}
