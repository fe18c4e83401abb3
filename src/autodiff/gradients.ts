import { TunesmithError } from "../errors/index.js";
import {
  decompositionOf,
  dependencies,
  describe,
  makeNode,
  type Node,
  ops,
  reach,
  sameShape,
  type Value,
  withScope,
} from "../graph/index.js";
import { findRule, notDifferentiable, stopsGradient } from "./rules/index.js";
import { asFloats, isReal, movesCodes, straightThrough } from "./straight-through.js";

export interface Seed {
  readonly output: Value;
  /** Gradient arriving at `output`, of its shape. */
  readonly gradient: Value;
}

/**
 * Gradients of a scalar `loss` with respect to `wrt`, as new graph values (so they can be differentiated again).
 * Only what lies between is differentiated. A value the loss does not depend on gets zeros.
 *
 * Throws `op-not-differentiable` naming operator, node and module path when the path crosses an operator without a
 * rule, and `shape-mismatch` when `loss` is not a scalar.
 *
 * @example
 * ```ts
 * import { gradients } from "tunesmith/autodiff";
 * import { input, ops } from "tunesmith/graph";
 * const x = input("x", "float32", [3]);
 * const [dx] = gradients(ops.reduceSum(ops.square(x), undefined, false), [x]); // 2x
 * console.log(dx?.shape);
 * ```
 */
export function gradients(loss: Value, wrt: readonly Value[]): Value[] {
  if (loss.shape.some((dim) => dim !== 1)) {
    throw new TunesmithError(
      "shape-mismatch",
      `gradients: the loss has shape [${loss.shape}], expected a scalar`,
      {
        fix: "reduce it with ops.reduceSum or ops.reduceMean, or pass output gradients to vjp()",
      },
    );
  }
  const seed = ops.full(loss.shape, 1, loss.dtype);
  return vjp([{ output: loss, gradient: seed }], wrt).map(
    (dx, index) => dx ?? ops.zerosLike(wrt[index] as Value),
  );
}

/**
 * Vector-Jacobian product: `Σ gradientᵀ · ∂output/∂wrt` for each `wrt`; undefined where nothing depends on it. Values in
 * `independent` count as inputs: how they were computed is not looked at.
 */
export const vjp = (
  seeds: readonly Seed[],
  wrt: readonly Value[],
  independent: readonly Value[] = [],
): (Value | undefined)[] => reverse(seeds, wrt, new Set(independent));

/** The reverse pass. Nothing below `stops` is looked at. */
function reverse(
  seeds: readonly Seed[],
  wrt: readonly Value[],
  stops: ReadonlySet<Value>,
): (Value | undefined)[] {
  const { nodes } = reach(
    seeds.map((seed) => seed.output),
    stops,
  );
  const active = activeValues(nodes, wrt);
  const clean = cleanedValues(nodes);
  const arrived = new Map<Value, Value[]>();
  const send = (value: Value, gradient: Value) => {
    const list = arrived.get(value);
    if (list) list.push(gradient);
    else arrived.set(value, [gradient]);
  };
  const total = (value: Value): Value | undefined => {
    const sum = arrived.get(value)?.reduce((a, b) => ops.add(a, b));
    if (sum) arrived.set(value, [sum]);
    return sum;
  };
  for (const seed of seeds) send(seed.output, seed.gradient);
  for (const node of nodes.toReversed()) {
    if (!node.outputs.some((value) => active.has(value))) continue;
    withScope(node.scope, () => backThrough(node, { active, clean }, total, send));
  }
  return wrt.map(total);
}

/** What the reverse pass knows of the graph as a whole. */
interface Surroundings {
  readonly active: ReadonlySet<Value>;
  readonly clean: ReadonlyMap<Value, Value>;
}

/**
 * Values that the graph itself replaces where they are NaN, `Where(IsNaN(y), 0, y)`, with what it makes of them: exporters
 * write this behind a softmax whose rows may be masked as a whole. A derivative that reads y must read the clean one.
 */
function cleanedValues(nodes: readonly Node[]): Map<Value, Value> {
  const clean = new Map<Value, Value>();
  for (const { op: name, inputs, outputs } of nodes) {
    const test = inputs[0]?.source;
    const value = inputs[2];
    if (name !== "Where" || test?.kind !== "node" || test.node.op !== "IsNaN" || !value) continue;
    if (test.node.inputs[0] === value && outputs[0] && sameShape(outputs[0].shape, value.shape))
      clean.set(value, outputs[0]);
  }
  return clean;
}

function backThrough(
  node: Node,
  { active, clean }: Surroundings,
  total: (value: Value) => Value | undefined,
  send: (value: Value, gradient: Value) => void,
): void {
  const dys = node.outputs.map(total);
  const dy = dys[0] ?? dys.find((value) => value !== undefined);
  if (!dy) return;
  const needs = (index: number) => {
    const value = node.inputs[index];
    return value !== undefined && active.has(value);
  };
  const rule = findRule(node);
  const codes = movesCodes(node, active);
  if (!rule) {
    const found = codes ? throughFloats(node, dys, active) : throughDecomposition(node, dys, active);
    for (const [value, gradient] of found) {
      checkShape(node, "an operand", value, gradient);
      send(value, gradient);
    }
    return;
  }
  const inputs = codes ? asFloats(node.inputs, active) : (node.inputs as readonly Value[]);
  const own = node.outputs.map((value) => clean.get(value) ?? value);
  const outputs = codes ? asFloats(own, active) : own;
  const context = { node, inputs, outputs, dys, dy, needs };
  rule(context).forEach((gradient, index) => {
    const value = node.inputs[index];
    if (!gradient || !value || !active.has(value)) return;
    checkShape(node, `input ${index}`, value, gradient);
    send(value, gradient);
  });
}

/**
 * An operator without a rule of its own is differentiated as the simpler operators it stands for: the gradients of what
 * it depends on, captured values of sub-graphs included.
 */
function throughDecomposition(
  node: Node,
  dys: readonly (Value | undefined)[],
  active: ReadonlySet<Value>,
): (readonly [Value, Value])[] {
  const decompose = decompositionOf(node);
  if (!decompose) throw notDifferentiable(node);
  const parts = decompose(node.inputs, node);
  const seeds = dys.flatMap((gradient, index) => {
    const output = parts[index];
    if (gradient && !output) throw notDifferentiable(node, `has no gradient through its output ${index}`);
    return gradient && output ? [{ output, gradient }] : [];
  });
  const operands = new Set(dependencies(node));
  const wanted = [...operands].filter((value) => active.has(value));
  return reverse(seeds, wanted, operands).flatMap((gradient, at) =>
    gradient ? [[wanted[at] as Value, gradient] as const] : [],
  );
}

/** An operator over codes, as the same one over floats. */
function throughFloats(
  node: Node,
  dys: readonly (Value | undefined)[],
  active: ReadonlySet<Value>,
): (readonly [Value, Value])[] {
  const inputs = asFloats(node.inputs, active);
  const real = makeNode(node.op, inputs, node.attrs, { outputs: node.outputs.length });
  const carrying = new Map(
    node.inputs.flatMap((value, at) =>
      value && active.has(value) ? [[inputs[at] as Value, value] as const] : [],
    ),
  );
  return throughDecomposition(real, dys, new Set(carrying.keys())).map(([value, gradient]) => [
    carrying.get(value) as Value,
    gradient,
  ]);
}

/** Values that depend on `wrt` through floating-point operators, or as codes of such values. */
function activeValues(nodes: readonly Node[], wrt: readonly Value[]): Set<Value> {
  const active = new Set<Value>(wrt);
  for (const node of nodes) {
    if (stopsGradient(node) || !dependsOn(node, active)) continue;
    const floats = [...node.outputs.filter(isReal), ...straightThrough(node, active)];
    // An operator that rounds to integers without being known to stop would lose the gradient silently.
    if (floats.length === 0 && node.op !== "Cast") throw notDifferentiable(node);
    for (const value of floats) active.add(value);
  }
  return active;
}

function dependsOn(node: Node, active: ReadonlySet<Value>): boolean {
  const inputs =
    node.domain === "tunesmith" && node.op === "CustomVjp" ? ops.customParts(node).wrt : dependencies(node);
  return inputs.some((value) => active.has(value));
}

function checkShape(node: Node, which: string, value: Value, gradient: Value): void {
  const same =
    value.shape.length === gradient.shape.length &&
    value.shape.every(
      (dim, axis) =>
        typeof dim === "string" || typeof gradient.shape[axis] === "string" || dim === gradient.shape[axis],
    );
  if (!same || gradient.dtype !== (isReal(value) ? value.dtype : "float32")) {
    throw new TunesmithError(
      "graph-invalid",
      `gradient rule of ${describe(node)} gave ${gradient.dtype}[${gradient.shape}] for ${which} of ${value.dtype}[${value.shape}]`,
    );
  }
}
