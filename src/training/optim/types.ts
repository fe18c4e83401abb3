/**
 * Named flat tensors: parameters, gradients or updates. Shapes do not matter to an optimiser, so every entry is
 * the row-major data alone.
 */
export type Params = ReadonlyMap<string, Float32Array>;

/**
 * What an optimiser remembers between updates, as plain data: named slots (for example `mu`, `nu`), each with one
 * array per parameter, scalars, and the states of the parts of a `chain`. Arrays are updated in place.
 */
export interface OptimizerState {
  readonly slots: Readonly<Record<string, Params>>;
  readonly scalars: Record<string, number>;
  readonly inner: readonly OptimizerState[];
}

/** What an update may depend on besides gradients, state and parameters. */
export interface UpdateContext {
  /** 1-based number of this update. Schedules are read at `step - 1`, Adam's bias correction at `step`. */
  readonly step: number;
}

/**
 * A gradient transformation: gradients in, updates out. `update` changes `state` in place and owns `grads`: it may
 * write the updates into those arrays and return them. The sum `params + updates` is the new parameters, so the
 * last part of an optimiser multiplies by minus the learning rate. `grads` may lack parameters; those are left alone.
 */
export interface GradientTransform {
  init(params: Params): OptimizerState;
  update(grads: Params, state: OptimizerState, params: Params, context: UpdateContext): Params;
}

/** A finished optimiser: `transform` defines it, `step` does the same in place with fewer passes where that pays. */
export interface Optimizer {
  readonly name: string;
  readonly transform: GradientTransform;
  /** Learning rate of update `step` (1-based) for parameters in no group. */
  learningRate(step: number): number;
  init(params: Params): OptimizerState;
  /** Updates `params` and `state` in place; `grads` may be overwritten. */
  step(params: Params, grads: Params, state: OptimizerState, context: UpdateContext): void;
}
