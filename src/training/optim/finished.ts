import {
  checkGroups,
  type GroupSettings,
  type NameRules,
  type ParameterGroup,
  requireNumber,
  resolveGroups,
} from "./groups.js";
import { constant, type Schedule } from "./schedules.js";
import { copyParams, parameterOf } from "./state.js";
import { applyUpdates, clipByGlobalNorm } from "./transforms.js";
import type { GradientTransform, Optimizer, OptimizerState, Params, Shapes, UpdateContext } from "./types.js";

/** Settings every finished optimiser takes. */
export interface OptimizerOptions extends NameRules {
  /** Learning rate before the schedule. */
  readonly lr: number;
  /** Factor of the learning rate per update. Default: constant 1. */
  readonly schedule?: Schedule | undefined;
  /** Weight decay. Default 0, for `adamw` 0.01. */
  readonly weightDecay?: number | undefined;
  /** Clip the gradients' global norm to this. Default: no clipping. */
  readonly maxGradNorm?: number | undefined;
  /** Learning rates, schedules and weight decay by parameter name; the first match applies. */
  readonly groups?: readonly ParameterGroup[] | undefined;
}

/** What an update of one parameter uses. */
export interface Rates {
  /** Group, name rule and schedule together, at a 1-based step. */
  lr(name: string, step: number): number;
  weightDecay(name: string): number;
  settings(name: string): GroupSettings;
}

/** The rates of every parameter. Throws `config-invalid` for a setting out of range. */
export function ratesOf(optimizer: string, options: OptimizerOptions): Rates {
  const { lr, weightDecay = 0, groups, schedule = constant() } = options;
  requireNumber(`${optimizer}: lr`, lr, 0);
  requireNumber(`${optimizer}: weightDecay`, weightDecay, 0);
  const settings = resolveGroups({ lr, weightDecay }, groups, options);
  return {
    settings,
    weightDecay: (name) => settings(name).weightDecay,
    lr(name, step) {
      const own = settings(name);
      return own.lr * (own.schedule ?? schedule)(step - 1);
    },
  };
}

/** The clipping that `maxGradNorm` asks for. */
export const clipping = ({ maxGradNorm }: OptimizerOptions): GradientTransform[] =>
  maxGradNorm === undefined ? [] : [clipByGlobalNorm(maxGradNorm)];

type Basics = Pick<OptimizerOptions, "lr" | "schedule" | "groups">;

/**
 * An optimiser from any gradient transformation. `options.lr` and `options.schedule` are only reported by
 * `learningRate`; the transformation itself must scale by them.
 */
export function fromTransform(name: string, options: Basics, transform: GradientTransform): Optimizer {
  return {
    name,
    transform,
    learningRate: learningRateOf(options),
    init(params, shapes) {
      checkGroups(params, options.groups);
      return transform.init(params, shapes);
    },
    step(params, grads, state, context) {
      applyUpdates(params, transform.update(grads, state, params, context));
    },
  };
}

/** An optimiser that is defined by its step in place. */
export interface StepParts {
  init(params: Params, shapes?: Shapes): OptimizerState;
  step(params: Params, grads: Params, state: OptimizerState, context: UpdateContext): void;
  readonly perturb?: NonNullable<Optimizer["perturb"]>;
  readonly enterEvaluation?: NonNullable<Optimizer["enterEvaluation"]>;
  readonly report?: NonNullable<Optimizer["report"]>;
}

/** A finished optimiser from its step; its transformation is the difference the step makes. */
export function fromStep(name: string, options: Basics, parts: StepParts): Optimizer {
  return {
    ...parts,
    name,
    transform: differenceOf(parts),
    learningRate: learningRateOf(options),
    init(params, shapes) {
      checkGroups(params, options.groups);
      return parts.init(params, shapes);
    },
  };
}

/** What a wrapper does; `initInner` makes the state of the optimiser inside. */
export interface WrapperParts extends Omit<StepParts, "init"> {
  init(initInner: StepParts["init"], params: Params, shapes?: Shapes): OptimizerState;
}

/** A wrapper around an optimiser: what it does not say, the inner one does. Its state holds the inner one's first. */
export function wrapped(inner: Optimizer, name: string, parts: WrapperParts): Optimizer {
  const { perturb, enterEvaluation, report } = inner;
  const { init, step } = parts;
  return {
    ...(perturb && { perturb: (params, grads, state, at) => perturb(params, grads, innerState(state), at) }),
    ...(enterEvaluation && {
      enterEvaluation: (params, state) => enterEvaluation(params, innerState(state)),
    }),
    ...(report && { report: (state, at) => report(innerState(state), at) }),
    ...parts,
    name: `${name}(${inner.name})`,
    // As everywhere, the transformation's own init does not check that groups match.
    transform: differenceOf({ step, init: (params, shapes) => init(inner.transform.init, params, shapes) }),
    init: (params, shapes) => init(inner.init, params, shapes),
    learningRate: (at) => inner.learningRate(at),
  };
}

/** The state of the optimiser inside a wrapper. */
export function innerState(state: OptimizerState): OptimizerState {
  return state.inner[0] as OptimizerState;
}

/** Writes `values` into the parameters; the returned function puts the same bits back. */
export function swapIn(params: Params, values: Params): () => void {
  const before = copyParams(params);
  for (const [name, data] of values) parameterOf(params, name, data.length).set(data);
  return () => {
    for (const [name, data] of before) params.get(name)?.set(data);
  };
}

function learningRateOf({ lr, schedule = constant() }: Basics): (step: number) => number {
  return (step) => lr * schedule(step - 1);
}

function differenceOf({ init, step }: Pick<StepParts, "init" | "step">): GradientTransform {
  return {
    init,
    update(grads, state, params, context) {
      const moved = copyParams(params);
      step(moved, grads, state, context);
      return new Map(
        [...moved].map(([name, data]) => {
          const before = parameterOf(params, name, data.length);
          return [name, data.map((value, at) => value - (before[at] as number))];
        }),
      );
    },
  };
}
