import { TunesmithError } from "../../errors/index.js";
import { constantScalar } from "../../graph/constants.js";
import {
  type Dim,
  describe,
  intsOf,
  type Node,
  normalAxis,
  numbersOf,
  op,
  ops,
  type Value,
} from "../../graph/index.js";
import { stringAttr } from "../../graph/infer/types.js";
import type { VjpRule, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";
import { inverse } from "./combinators.js";
import { ungather } from "./indexing.js";

const reshapeBack: VjpRule = ({ dy, inputs }) => {
  const x = inputs[0] as Value;
  return [ops.reshape(dy, x.shape, [x])];
};

const axisOf = (attrs: Readonly<Record<string, unknown>>, rank: number): number =>
  normalAxis(Number((attrs.axis as { i?: number } | undefined)?.i ?? 0), rank, "axis");

/** Zeros for the gradient of an output that nothing uses. */
const orZeros = (dys: readonly (Value | undefined)[], outputs: readonly Value[]): Value[] =>
  outputs.map((y, index) => dys[index] ?? ops.zerosLike(y));

const slice: VjpRule = ({ dy, inputs, node }) => {
  const [x, starts, , axesInput, stepsInput] = inputs as [
    Value,
    Value,
    Value,
    Value | undefined,
    Value | undefined,
  ];
  // An empty slice (a sequencing edge) has nothing to give back.
  if (dy.shape.includes(0)) return [];
  const from = numbersOf(starts);
  const count = Number(starts.shape[0] ?? 1);
  const axes = numbersOf(axesInput) ?? [...Array(count).keys()];
  const steps = numbersOf(stepsInput) ?? axes.map(() => 1);
  return [
    axes.reduce((gradient, raw, at) => {
      const axis = normalAxis(raw, x.shape.length, "Slice");
      const start = from?.[at] ?? ops.slice(starts, 0, at, at + 1);
      return unslice(gradient, x, axis, start, steps[at] as number, node);
    }, dy),
  ];
};

/** Puts a slice's gradient back into zeros along one axis. */
function unslice(dy: Value, x: Value, axis: number, start: number | Value, step: number, node: Node): Value {
  const total = x.shape[axis] as Dim;
  const taken = dy.shape[axis] as Dim;
  if (typeof total !== "number" || typeof taken !== "number" || typeof start !== "number") {
    if (step === 1) return unsliceDynamic(dy, x, axis, start);
    throw cannot(node, `a Slice with step ${step} of the symbolic axis ${axis} has no static gradient`);
  }
  const first = Math.min(Math.max(start < 0 ? start + total : start, 0), step < 0 ? total - 1 : total);
  if (step === 1) {
    const none = x.shape.map(() => 0);
    return first === 0 && taken === total
      ? dy
      : ops.pad(dy, none.with(axis, first), none.with(axis, total - first - taken));
  }
  const rows = ops.ints(Array.from({ length: taken }, (_, i) => first + i * step));
  return ungather(dy, rows, axis, dy.shape.with(axis, total), [dy]);
}

/** Symbolic length or start: the padding is computed at run time. */
function unsliceDynamic(dy: Value, x: Value, axis: number, start: number | Value): Value {
  const lengthOf = (value: Value) => op("Shape", [value], { start: { i: axis }, end: { i: axis + 1 } });
  const total = lengthOf(x);
  const at = typeof start === "number" ? ops.ints([start]) : start;
  const fromEnd = typeof start === "number" ? start < 0 : undefined;
  // A start that is only known as a symbol may count from the end: decided when the graph runs.
  const either = () => ops.where(ops.less(at, 0), ops.add(at, total), at);
  const before = fromEnd === undefined && !intsOf(at) ? either() : fromEnd ? ops.add(total, at) : at;
  const behind = ops.sub(ops.sub(total, before), lengthOf(dy));
  const padded = op("Pad", [dy, ops.concat([before, behind], 0), undefined, ops.ints([axis])]);
  return ops.reshape(padded, dy.shape.with(axis, x.shape[axis] as Dim), [x, dy]);
}

const cannot = (node: Node, why: string) =>
  new TunesmithError("op-not-differentiable", `${describe(node)}: ${why}`, {
    fix: "bind the graph's symbolic dimensions with specialise() before differentiating",
    details: { op: node.op, node: node.name, scope: node.scope },
  });

/** Which element of an axis of length `n` padded position `at` shows. */
const padSource: Readonly<Record<string, (at: number, n: number) => number>> = {
  edge: (at, n) => Math.min(Math.max(at, 0), n - 1),
  wrap: (at, n) => ((at % n) + n) % n,
  reflect: (at, n) => {
    const period = Math.max(1, 2 * (n - 1));
    const phase = ((at % period) + period) % period;
    return phase < n ? phase : period - phase;
  },
};

const pad: VjpRule = ({ dy, inputs, needs, node }) => {
  const [x, padsInput, value, axesInput] = inputs as [Value, Value, Value | undefined, Value | undefined];
  const mode = stringAttr(node.attrs, "mode", "constant");
  if (mode === "constant") {
    const known = numbersOf(padsInput);
    const undone = known ? ops.ints(known.map((length) => -length)) : ops.sub(ops.ints([0]), padsInput);
    const dx = op("Pad", [dy, undone, undefined, axesInput].slice(0, axesInput ? 4 : 2));
    const back = ops.reshape(dx, x.shape, [x]);
    // The constant shows wherever no element of x does.
    const held = () => ops.sub(ops.reduceSum(dy, undefined, false), ops.reduceSum(back, undefined, false));
    return [back, undefined, needs(2) && value ? ops.reshape(held(), value.shape) : undefined];
  }
  const pads = numbersOf(padsInput);
  const source = padSource[mode];
  if (!pads || !source) throw cannot(node, `mode '${mode}' needs constant pads`);
  const axes = numbersOf(axesInput) ?? [...x.shape.keys()];
  return [
    axes.reduce((gradient, raw, at) => {
      const axis = normalAxis(raw, x.shape.length, "Pad");
      const [before, after, length] = [
        pads[at] as number,
        pads[at + axes.length] as number,
        x.shape[axis] as Dim,
      ];
      if (before === 0 && after === 0) return gradient;
      if (typeof length !== "number")
        throw cannot(node, `mode '${mode}' needs a static length of axis ${axis}`);
      const shown = Array.from({ length: before + length + after }, (_, i) => source(i - before, length));
      return ungather(gradient, ops.ints(shown), axis, gradient.shape.with(axis, length), [gradient]);
    }, dy),
  ];
};

/** Every axis as [repeat, length], the repeats summed. */
const tile: VjpRule = ({ dy, inputs, node }) => {
  const x = inputs[0] as Value;
  const repeats = numbersOf(inputs[1]);
  if (!repeats) throw cannot(node, "the repeats are not constant");
  const pairs = x.shape.flatMap((dim, axis): Dim[] => [repeats[axis] as number, dim]);
  const summed = ops.reduceSum(
    ops.reshape(dy, pairs, [x]),
    x.shape.map((_, axis) => 2 * axis),
    false,
  );
  return [ops.reshape(summed, x.shape, [x])];
};

/** Only inference: the identity. */
const dropout: VjpRule = ({ dy, node, inputs }) => {
  const training = constantScalar(inputs[2]) ?? (inputs[2] ? 1 : 0);
  if (training === 0 || constantScalar(inputs[1]) === 0) return [dy];
  throw new TunesmithError(
    "op-not-differentiable",
    `${describe(node)} draws its own random mask, which its gradient cannot see`,
    {
      fix: "feed a mask and multiply by it instead of running Dropout in training mode",
      details: { op: node.op, node: node.name, scope: node.scope },
    },
  );
};

export const shapes: VjpTable = {
  Reshape: reshapeBack,
  Flatten: reshapeBack,
  Squeeze: reshapeBack,
  Unsqueeze: reshapeBack,
  Slice: slice,
  Pad: pad,
  Tile: tile,
  Dropout: dropout,
  Transpose: ({ dy, inputs, node }) => {
    const rank = (inputs[0] as Value).shape.length;
    const attr = node.attrs.perm;
    const perm = attr && "ints" in attr ? attr.ints.map(Number) : [...Array(rank).keys()].reverse();
    return [ops.transpose(dy, inverse(perm))];
  },
  Concat: ({ dy, inputs, node }) => {
    const axis = axisOf(node.attrs, dy.shape.length);
    const sizes = inputs.map((value) => value.shape[axis]);
    if (sizes.every((size) => typeof size === "number")) return ops.split(dy, sizes as number[], axis);
    const lengths = inputs.map((value) => op("Shape", [value], { start: { i: axis }, end: { i: axis + 1 } }));
    let from = ops.ints([0]);
    return inputs.map((value, index) => {
      const to = ops.add(from, lengths[index] as Value);
      const piece = op("Slice", [dy, from, to, ops.ints([axis])]);
      from = to;
      return ops.reshape(piece, value.shape, [value]);
    });
  },
  Split: ({ dys, outputs, node }) => {
    const axis = axisOf(node.attrs, (outputs[0] as Value).shape.length);
    return [ops.concat(orZeros(dys, outputs), axis)];
  },
  Expand: ({ dy, inputs }) => {
    const x = inputs[0] as Value;
    return [unbroadcast(dy, x.shape, x)];
  },
};
