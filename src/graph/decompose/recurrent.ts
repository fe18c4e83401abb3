import { op } from "../create.js";
import { floatAttr, intAttr, stringAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { staticLengths, unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

type Activation = (x: Value) => Value;

/** One direction's parameters, all with the direction axis removed. */
interface Direction {
  /** `[in, gates·H]`. */
  readonly w: Value;
  /** `[H, gates·H]`, or one `[H, H]` per gate where the cell uses them apart. */
  readonly r: readonly Value[];
  readonly wb: Value | undefined;
  readonly rb: Value | undefined;
  readonly peepholes: readonly (Value | undefined)[];
  readonly activations: readonly Activation[];
  readonly hidden: number;
}

/** The states after one time step, the output first. `x` is the input's contribution `W·x_t`, without biases. */
type Cell = (x: Value, states: readonly Value[], direction: Direction, node: Node) => readonly Value[];

const activationOf = (
  node: Node,
  name: string,
  alpha: number | undefined,
  beta: number | undefined,
): Activation => {
  const scaled = (defaults: readonly [number, number]) =>
    [alpha ?? defaults[0], beta ?? defaults[1]] as const;
  switch (name.toLowerCase()) {
    case "sigmoid":
      return ops.sigmoid;
    case "tanh":
      return ops.tanh;
    case "relu":
      return ops.relu;
    case "softplus":
      return ops.softplus;
    case "softsign":
      return (x) => op("Softsign", [x]);
    case "affine":
      return (x) => ops.add(ops.mul(x, scaled([1, 0])[0]), scaled([1, 0])[1]);
    case "scaledtanh":
      return (x) => ops.mul(ops.tanh(ops.mul(x, scaled([1, 1])[1])), scaled([1, 1])[0]);
    case "leakyrelu":
      return (x) => op("LeakyRelu", [x], { alpha: { f: alpha ?? 0.01 } });
    case "thresholdedrelu":
      return (x) => op("ThresholdedRelu", [x], { alpha: { f: alpha ?? 1 } });
    case "elu":
      return (x) => op("Elu", [x], { alpha: { f: alpha ?? 1 } });
    case "hardsigmoid":
      return (x) => op("HardSigmoid", [x], { alpha: { f: alpha ?? 0.2 }, beta: { f: beta ?? 0.5 } });
    default:
      throw unsupported(node, "activations", name);
  }
};

const USES_ALPHA = new Set(["affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"]);
const USES_BETA = new Set(["affine", "scaledtanh", "hardsigmoid"]);

/** Activations of every direction; alpha and beta lists are consumed by those that take them, in order. */
function activations(node: Node, defaults: readonly string[], directions: number): Activation[][] {
  const { activations: names, activation_alpha: alphas, activation_beta: betas } = node.attrs;
  const given = names && "strings" in names && names.strings.length > 0 ? names.strings : undefined;
  const all = given ?? Array.from({ length: directions }, () => defaults).flat();
  const alphaList = alphas && "floats" in alphas ? [...alphas.floats] : [];
  const betaList = betas && "floats" in betas ? [...betas.floats] : [];
  const made = all.map((name) => {
    const key = name.toLowerCase();
    const alpha = USES_ALPHA.has(key) ? alphaList.shift() : undefined;
    return activationOf(node, name, alpha, USES_BETA.has(key) ? betaList.shift() : undefined);
  });
  return Array.from({ length: directions }, (_, at) =>
    made.slice(at * defaults.length, (at + 1) * defaults.length),
  );
}

const pieces = (x: Value, count: number, size: number): readonly Value[] =>
  ops.split(x, Array<number>(count).fill(size), -1);

const clipped = (x: Value, node: Node): Value => {
  const limit = floatAttr(node.attrs, "clip", 0);
  return limit > 0 ? ops.clip(x, -limit, limit) : x;
};
const plus = (x: Value, ...terms: (Value | undefined)[]): Value =>
  terms.reduce<Value>((sum, term) => (term ? ops.add(sum, term) : sum), x);

const lstmCell: Cell = (x, [h, c], { r, wb, rb, peepholes, activations: [f, g, hOut], hidden }, node) => {
  const gates = plus(ops.matmul(h as Value, r[0] as Value), x, wb, rb);
  const [zi, zo, zf, zc] = pieces(gates, 4, hidden) as [Value, Value, Value, Value];
  const [pi, po, pf] = peepholes;
  const cell = c as Value;
  const peek = (state: Value, weight: Value | undefined) => (weight ? ops.mul(state, weight) : undefined);
  const [sigma, tau, out] = [f, g, hOut] as [Activation, Activation, Activation];
  const i = sigma(clipped(plus(zi, peek(cell, pi)), node));
  const coupled = intAttr(node.attrs, "input_forget", 0) !== 0;
  const forget = coupled ? ops.sub(1, i) : sigma(clipped(plus(zf, peek(cell, pf)), node));
  const next = ops.add(ops.mul(forget, cell), ops.mul(i, tau(clipped(zc, node))));
  const o = sigma(clipped(plus(zo, peek(next, po)), node));
  return [ops.mul(o, out(next)), next];
};

const gruCell: Cell = (x, [state], { r, wb, rb, activations: [f, g], hidden }, node) => {
  const h = state as Value;
  const [sigma, tau] = [f, g] as [Activation, Activation];
  const [xz, xr, xh] = pieces(plus(x, wb), 3, hidden) as [Value, Value, Value];
  const [bz, br, bh] = rb ? pieces(rb, 3, hidden) : [];
  const [rz, rr, rh] = r as [Value, Value, Value];
  const z = sigma(clipped(plus(ops.matmul(h, rz), xz, bz), node));
  const reset = sigma(clipped(plus(ops.matmul(h, rr), xr, br), node));
  const before = intAttr(node.attrs, "linear_before_reset", 0) !== 0;
  const recurrent = before
    ? ops.mul(reset, plus(ops.matmul(h, rh), bh))
    : plus(ops.matmul(ops.mul(reset, h), rh), bh);
  const candidate = tau(clipped(ops.add(xh, recurrent), node));
  return [ops.add(ops.mul(ops.sub(1, z), candidate), ops.mul(z, h))];
};

const rnnCell: Cell = (x, [h], { r, wb, rb, activations: [f] }, node) => [
  (f as Activation)(clipped(plus(ops.matmul(h as Value, r[0] as Value), x, wb, rb), node)),
];

interface Kind {
  readonly gates: number;
  readonly states: number;
  readonly defaults: readonly string[];
  readonly cell: Cell;
  /** The recurrent weights are wanted gate by gate. */
  readonly apart?: boolean;
}

const reverseTime = (x: Value, lengths: Value | undefined, steps: number): Value => {
  if (lengths)
    return op("ReverseSequence", [x, ops.cast(lengths, "int64")], {
      time_axis: { i: 0 },
      batch_axis: { i: 1 },
    });
  return ops.gather(x, ops.ints(Array.from({ length: steps }, (_, t) => steps - 1 - t)));
};

/**
 * Unrolls a recurrent node over its (static) number of steps. Steps behind a sequence's length give zeros and keep
 * the states, as ONNX Runtime does.
 */
const unroll =
  ({ gates, states: stateCount, defaults, cell, apart }: Kind): Decomposition =>
  (inputs, node) => {
    const batchFirst = intAttr(node.attrs, "layout", 0) === 1;
    const [rawX, w, r, b, lengths, initialH, initialC, p] = inputs;
    const turn = (value: Value, perm: readonly number[]) => (batchFirst ? ops.transpose(value, perm) : value);
    const x = turn(rawX as Value, [1, 0, 2]);
    const mode = stringAttr(node.attrs, "direction", "forward");
    const directions = mode === "bidirectional" ? 2 : 1;
    const [steps, hidden] = staticLengths(
      node,
      [x.shape[0] as Dim, (r as Value).shape[2] as Dim],
      "length and hidden size",
    );
    const [time, size, batch] = [steps as number, hidden as number, x.shape[1] as Dim];
    const acts = activations(node, defaults, directions);
    const pick = (value: Value | undefined, at: number) =>
      value && ops.squeeze(ops.slice(value, 0, at, at + 1), 0);
    const initials = [initialH, initialC]
      .slice(0, stateCount)
      .map((value) => value && turn(value, [1, 0, 2]));
    const ys: Value[] = [];
    const lasts: Value[][] = Array.from({ length: stateCount }, () => []);
    for (let at = 0; at < directions; at++) {
      const reverse = mode === "reverse" || at === 1;
      const bias = pick(b, at);
      const [wb, rb] = bias ? pieces(bias, 2, gates * size) : [];
      const peepholes = p ? pieces(pick(p, at) as Value, 3, size) : [];
      const recurrentWeight = ops.transpose(pick(r, at) as Value, [1, 0]);
      const direction: Direction = {
        w: ops.transpose(pick(w, at) as Value, [1, 0]),
        r: apart ? pieces(recurrentWeight, gates, size) : [recurrentWeight],
        wb,
        rb,
        peepholes,
        activations: acts[at] as Activation[],
        hidden: size,
      };
      const start = Array.from({ length: stateCount }, (_, s) => {
        return pick(initials[s], at) ?? ops.full([batch, size], 0, x.dtype, [x]);
      });
      const source = reverse ? reverseTime(x, lengths, time) : x;
      const run = runDirection(source, time, start, direction, cell, lengths, node);
      ys.push(ops.unsqueeze(reverse ? reverseTime(run.y, lengths, time) : run.y, 1));
      for (const [s, state] of run.states.entries()) lasts[s]?.push(ops.unsqueeze(state, 0));
    }
    const y = turn(ops.concat(ys, 1), [2, 0, 1, 3]);
    return [y, ...lasts.map((parts) => turn(ops.concat(parts, 0), [1, 0, 2]))];
  };

/** `x`: `[time, batch, in]` → outputs `[time, batch, hidden]` and the last states. */
function runDirection(
  x: Value,
  time: number,
  start: readonly Value[],
  direction: Direction,
  cell: Cell,
  lengths: Value | undefined,
  node: Node,
): { y: Value; states: readonly Value[] } {
  // All steps' input projections are one matrix product.
  const projected = ops.split(ops.matmul(x, direction.w), Array<number>(time).fill(1), 0);
  let states = start;
  const outputs = projected.map((step, t) => {
    const next = cell(ops.squeeze(step, 0), states, direction, node);
    if (!lengths) {
      states = next;
      return ops.unsqueeze(next[0] as Value, 0);
    }
    const running = ops.unsqueeze(ops.greater(ops.cast(lengths, "int64"), t), 1);
    states = next.map((state, s) => ops.where(running, state, states[s] as Value));
    return ops.unsqueeze(ops.where(running, next[0] as Value, 0), 0);
  });
  return { y: ops.concat(outputs, 0), states };
}

export const recurrent: DecompositionTable = {
  RNN: unroll({ gates: 1, states: 1, defaults: ["Tanh"], cell: rnnCell }),
  GRU: unroll({ gates: 3, states: 1, defaults: ["Sigmoid", "Tanh"], cell: gruCell, apart: true }),
  LSTM: unroll({ gates: 4, states: 2, defaults: ["Sigmoid", "Tanh", "Tanh"], cell: lstmCell }),
};
