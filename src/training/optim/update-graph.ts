import { TunesmithError } from "../../errors/index.js";
import { type Graph, input, makeGraph, type Value } from "../../graph/index.js";
import { createSession, type SessionOptions, type TensorMap } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { parameterOf, slotOf } from "./state.js";
import { clipFactor, globalNorm } from "./transforms.js";
import type { Optimizer, OptimizerState, Params, Shapes, UpdateContext } from "./types.js";
import { type GraphOptimizerName, type ParameterUpdate, ruleOf, type UpdateRule } from "./update-rules.js";

/** An optimiser's step as a graph: parameters, gradients and state in, new parameters and state out. */
export interface UpdateGraph {
  readonly graph: Graph;
  /** The same optimiser as a loop; its `init` makes the state, which checkpoints and both forms share. */
  readonly optimizer: Optimizer;
  /**
   * What the graph is fed for one update. `gradNorm` spares computing the norm again where gradients are clipped.
   * Throws `tensor-not-found` for a parameter without gradient.
   */
  feeds(params: Params, grads: Params, state: OptimizerState, context: UpdateFeed): Record<string, Tensor>;
  /** Copies what the graph computed into parameters and state. */
  apply(results: TensorMap, params: Params, state: OptimizerState): void;
}

/** The number of the update, and the norm of its gradients if it is known. */
export interface UpdateFeed extends UpdateContext {
  readonly gradNorm?: number;
}

/**
 * The step of an optimiser as one graph, for ONNX Runtime to run on all its threads: sgd, adamw, lion, adafactor and muon,
 * with their own options, groups and schedules. It gives the numbers of the loop up to float32 rounding.
 *
 * @param name The optimiser.
 * @param options As for the optimiser's function, `adamw(options)` and so on. Of amsgrad and Adafactor's `factored: false`
 *   there is no graph.
 * @param shapes Every parameter with its shape.
 * @throws `config-invalid` for options that have no graph.
 *
 * @example
 * ```ts
 * import { updateGraph } from "tunesmith/training";
 * const { graph, optimizer } = updateGraph("adamw", { lr: 1e-3 }, new Map([["w", [2, 3]]]));
 * console.log(optimizer.name, graph.inputs.map(({ name }) => name));
 * ```
 */
export function updateGraph<Name extends GraphOptimizerName>(
  name: Name,
  options: Parameters<typeof ruleOf<Name>>[1],
  shapes: Shapes,
): UpdateGraph {
  const rule = ruleOf(name, options);
  const { maxGradNorm } = options as { maxGradNorm?: number };
  const inputs: Value[] = [];
  const outputs: [string, Value][] = [];
  const feed = (key: string, shape: readonly number[]): Value => {
    const value = input(key, "float32", shape);
    inputs.push(value);
    return value;
  };
  const gradScale = maxGradNorm === undefined ? undefined : feed("gradScale", []);
  const scalars = Object.fromEntries(rule.scalars.map((key) => [key, feed(key, [])]));
  for (const [parameter, shape] of shapes) {
    const parts = rule.of(parameter, shape);
    const slots = Object.entries(parts.slots).map(([slot, slotShape]): [string, Value] => [
      slot,
      feed(`${slot}/${parameter}`, slotShape),
    ]);
    const result = parts.update({
      weights: feed(`weights/${parameter}`, shape),
      grad: feed(`grad/${parameter}`, shape),
      gradScale,
      lr: feed(`lr/${parameter}`, []),
      slots: Object.fromEntries(slots),
      scalars,
    });
    outputs.push([`new/weights/${parameter}`, result.weights]);
    for (const [slot, value] of Object.entries(result.slots))
      outputs.push([`new/${slot}/${parameter}`, value]);
  }
  return {
    graph: makeGraph(`update ${name}`, inputs, outputs),
    optimizer: rule.optimizer,
    feeds: (params, grads, state, context) => ({
      ...feedsOf(rule, shapes, params, grads, state, context),
      ...(maxGradNorm === undefined
        ? {}
        : { gradScale: number(clipFactor(context.gradNorm ?? globalNorm(grads), maxGradNorm)) }),
    }),
    apply: (results, params, state) => applyResults(rule, shapes, results, params, state),
  };
}

const number = (value: number): Tensor => tensor("float32", [], Float32Array.of(value));

function feedsOf(
  rule: UpdateRule,
  shapes: Shapes,
  params: Params,
  grads: Params,
  state: OptimizerState,
  { step }: UpdateFeed,
): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const [key, value] of Object.entries(rule.scalarsAt(step))) feeds[key] = number(value);
  for (const [name, shape] of shapes) {
    const grad = grads.get(name);
    if (!grad) {
      throw new TunesmithError("tensor-not-found", `parameter '${name}' has no gradient`, {
        fix: "pass a gradient for every parameter of the update graph",
      });
    }
    feeds[`weights/${name}`] = tensor("float32", shape, parameterOf(params, name, grad.length));
    feeds[`grad/${name}`] = tensor("float32", shape, grad);
    feeds[`lr/${name}`] = number(rule.lr(name, step));
    eachSlot(rule, name, shape, state, (slot, data, slotShape) => {
      feeds[`${slot}/${name}`] = tensor("float32", slotShape, data);
    });
  }
  return feeds;
}

function applyResults(
  rule: UpdateRule,
  shapes: Shapes,
  results: TensorMap,
  params: Params,
  state: OptimizerState,
): void {
  for (const [name, shape] of shapes) {
    const weights = results[`new/weights/${name}`]?.data as Float32Array;
    parameterOf(params, name, weights.length).set(weights);
    eachSlot(rule, name, shape, state, (slot, data) => {
      data.set(results[`new/${slot}/${name}`]?.data as Float32Array);
    });
  }
}

function eachSlot(
  rule: UpdateRule,
  name: string,
  shape: readonly number[],
  state: OptimizerState,
  visit: (slot: string, data: Float32Array, shape: readonly number[]) => void,
): void {
  const { slots }: ParameterUpdate = rule.of(name, shape);
  for (const [slot, slotShape] of Object.entries(slots)) {
    const size = slotShape.reduce((product, length) => product * length, 1);
    visit(slot, slotOf(rule.stateOf(state), slot, name, size), slotShape);
  }
}

/** An optimiser whose update runs in ONNX Runtime. */
export interface UpdateSession {
  readonly optimizer: Optimizer;
  /** As `Optimizer.step`, but `grads` are left alone. */
  step(params: Params, grads: Params, state: OptimizerState, context: UpdateFeed): Promise<void>;
  release(): Promise<void>;
}

/**
 * Compiles `updateGraph`. Make the state with `session.optimizer.init(params, shapes)`; release it after use.
 *
 * @example
 * ```ts
 * import { createUpdateSession } from "tunesmith/training";
 * const shapes = new Map([["w", [2]]]);
 * const params = new Map([["w", Float32Array.of(1, 2)]]);
 * const session = await createUpdateSession("lion", { lr: 1e-4 }, shapes);
 * const state = session.optimizer.init(params, shapes);
 * await session.step(params, new Map([["w", Float32Array.of(0.1, -0.1)]]), state, { step: 1 });
 * await session.release();
 * ```
 */
export async function createUpdateSession<Name extends GraphOptimizerName>(
  name: Name,
  options: Parameters<typeof ruleOf<Name>>[1],
  shapes: Shapes,
  sessionOptions?: SessionOptions,
): Promise<UpdateSession> {
  const { graph, optimizer, feeds, apply } = updateGraph(name, options, shapes);
  const session = await createSession(graph, sessionOptions);
  return {
    optimizer,
    async step(params, grads, state, context) {
      apply(await session.run(feeds(params, grads, state, context)), params, state);
    },
    release: session.release,
  };
}
