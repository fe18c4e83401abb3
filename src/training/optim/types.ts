/**
 * Named flat tensors: parameters, gradients or updates. Shapes do not matter to an optimiser, so every entry is
 * the row-major data alone.
 */
export type Params = ReadonlyMap<string, Float32Array>;

/** Shapes of the parameters, for the optimisers that treat matrices as such (Adafactor, Muon, adaptive clipping). */
export type Shapes = ReadonlyMap<string, readonly number[]>;

/**
 * What an optimiser remembers between updates, as plain data: named slots (for example `mu`, `nu`), each with one
 * array per parameter, scalars, and the states of the parts of a `chain`. Arrays are updated in place.
 */
export interface OptimizerState {
  readonly slots: Readonly<Record<string, Params>>;
  readonly scalars: Record<string, number>;
  readonly inner: readonly OptimizerState[];
  /** Slots of 8-bit codes (`quantizedState`). */
  readonly bytes?: Readonly<Record<string, ReadonlyMap<string, Uint8Array>>>;
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
  init(params: Params, shapes?: Shapes): OptimizerState;
  update(grads: Params, state: OptimizerState, params: Params, context: UpdateContext): Params;
}

/** How an optimiser's update is made in a graph. */
export interface GraphUpdate {
  readonly name: "sgd" | "adamw" | "lion" | "adafactor" | "muon";
  /** As given to the optimiser's function. */
  readonly options: unknown;
  /** What happens to gradients before, such as clipping. */
  before?(grads: Params, state: OptimizerState, params: Params, context: UpdateContext): Params;
  /** The state that the graph's optimiser knows, within a wrapper's. */
  stateOf?(state: OptimizerState): OptimizerState;
}

/** A finished optimiser: `transform` defines it, `step` does the same in place with fewer passes where that pays. */
export interface Optimizer {
  readonly name: string;
  readonly transform: GradientTransform;
  /** Learning rate of update `step` (1-based) for parameters in no group. */
  learningRate(step: number): number;
  /** `shapes` are needed by optimisers that treat matrices as such; without them those throw `config-invalid`. */
  init(params: Params, shapes?: Shapes): OptimizerState;
  /** Updates `params` and `state` in place; `grads` may be overwritten. */
  step(params: Params, grads: Params, state: OptimizerState, context: UpdateContext): void;
  /**
   * Set by optimisers that take their gradient elsewhere (SAM). Moves `params` there; the returned function puts the
   * same bits back. Before each `step`: gradients, `perturb`, gradients again, the returned function, then `step` with
   * the second gradients.
   */
  perturb?(params: Params, grads: Params, state: OptimizerState, context: UpdateContext): () => void;
  /**
   * Set by optimisers whose good weights are not those they train (averages, schedule-free). Writes them into `params`;
   * the returned function puts the same bits back. To be entered for every evaluation, for what early stopping keeps,
   * and, never to be left, at the end of the run; checkpoints are taken outside.
   */
  enterEvaluation?(params: Params, state: OptimizerState): () => void;
  /** The same update as a graph, where there is one (`createUpdateSession`). */
  readonly graph?: GraphUpdate | undefined;
  /** Figures for logs, such as D-Adaptation's estimate. `step` is the update that was done last. */
  report?(state: OptimizerState, step: number): Readonly<Record<string, number>>;
}
