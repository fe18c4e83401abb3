import { TunesmithError } from "../../errors/index.js";
import { fromStep, type OptimizerOptions, type Rates, ratesOf, type StepParts } from "./finished.js";
import { requireNumber } from "./groups.js";
import { constant } from "./schedules.js";
import { scalarOfState } from "./state.js";
import type { Optimizer, OptimizerState, Params } from "./types.js";

/** Settings of the optimisers that find their own learning rate. To clip gradients, wrap them with `clipped`. */
export interface DAdaptOptions extends Omit<OptimizerOptions, "lr" | "maxGradNorm"> {
  /** Multiplies the estimated learning rate. Default 1. */
  readonly lr?: number | undefined;
  /** First estimate of the distance to the solution. Default 1e-6. */
  readonly d0?: number | undefined;
  /** Largest growth of the estimate per update; 1.02 acts as a warm-up. Default: unlimited. */
  readonly growthRate?: number | undefined;
}

/** What a D-Adaptation variant gets at each step. */
export interface DAdaptStep {
  /** Estimate before this step. */
  readonly d: number;
  /** Learning rate factor and schedule. */
  readonly lr: number;
  /** Updates done before this one. */
  readonly k: number;
  /** Multiplier of a parameter's step: its group's learning rate over the optimiser's; 0 freezes it. */
  scale(name: string): number;
  weightDecay(name: string): number;
  /** The next estimate: never less than `d`, and at most `d * growthRate`. */
  grow(estimate: number): number;
}

interface Variant {
  readonly name: string;
  /** Groups may have rates of their own, not only 0. Default false. */
  readonly scales?: boolean;
  init(params: Params): OptimizerState;
  /** One step; undefined when nothing could be learned from it, and nothing is counted. Else the new estimate. */
  step(params: Params, grads: Params, state: OptimizerState, at: DAdaptStep): number | undefined;
  readonly enterEvaluation?: NonNullable<StepParts["enterEvaluation"]>;
}

/**
 * A D-Adaptation variant (arXiv 2301.07733) as an optimiser: one estimate `d` for all parameters, kept in the state with
 * the number of updates. A learning rate of 0 leaves everything as it is.
 */
export function dadaptFrom(options: DAdaptOptions, variant: Variant): Optimizer {
  const full = { ...options, lr: options.lr ?? 1 };
  const { d0 = 1e-6, growthRate = Number.POSITIVE_INFINITY, schedule = constant() } = options;
  requireNumber(`${variant.name}: lr`, full.lr, Number.MIN_VALUE);
  requireNumber(`${variant.name}: d0`, d0, Number.MIN_VALUE);
  if (!(growthRate >= 1)) {
    throw new TunesmithError("config-invalid", `${variant.name}: growthRate is ${growthRate}`, {
      fix: "give a number of at least 1",
    });
  }
  const rates = ratesOf(variant.name, full);
  const optimizer = fromStep(variant.name, full, {
    init(params) {
      for (const name of params.keys()) checkScale(variant, rates, name, full.lr);
      const state = variant.init(params);
      Object.assign(state.scalars, { d: d0, k: 0 });
      return state;
    },
    step(params, grads, state, { step }) {
      const lr = full.lr * schedule(step - 1);
      if (lr === 0) return;
      const d = scalarOfState(state, "d");
      const k = scalarOfState(state, "k");
      const next = variant.step(params, grads, state, {
        ...{ d, lr, k },
        scale: (name) => rates.settings(name).lr / full.lr,
        weightDecay: rates.weightDecay,
        grow: (estimate) => Math.max(d, Math.min(estimate, d * growthRate)),
      });
      if (next === undefined) return;
      state.scalars.d = next;
      state.scalars.k = k + 1;
    },
    ...(variant.enterEvaluation && { enterEvaluation: variant.enterEvaluation }),
    report(state, step) {
      const d = scalarOfState(state, "d");
      return { d, effectiveLr: d * full.lr * schedule(Math.max(0, step - 1)) };
    },
  });
  return optimizer;
}

function checkScale({ name, scales = false }: Variant, rates: Rates, parameter: string, lr: number): void {
  const { lr: own, schedule } = rates.settings(parameter);
  if (schedule) refuse(name, `a schedule of the group of '${parameter}'`, "use the optimiser's schedule");
  if (!scales && own !== 0 && own !== lr) {
    refuse(
      name,
      `a learning rate of its own for '${parameter}'`,
      "use dadapt-adam, or a rate of 0 to freeze",
    );
  }
}

function refuse(name: string, what: string, fix: string): never {
  throw new TunesmithError("config-invalid", `${name} does not take ${what}`, { fix });
}

/** Adds `decay * weights` to the gradient in place. */
export function addDecay(grad: Float32Array, weights: Float32Array, decay: number): void {
  if (decay === 0) return;
  for (let i = 0; i < grad.length; i++) grad[i] = (grad[i] as number) + decay * (weights[i] as number);
}
