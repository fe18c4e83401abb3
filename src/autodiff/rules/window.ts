import { TunesmithError } from "../../errors/index.js";
import {
  type Attrs,
  type Dim,
  describe,
  dimMul,
  makeNode,
  type Node,
  op,
  ops,
  outputOf,
  staticShape,
  type Value,
} from "../../graph/index.js";
import { transposedWindowOf, type Window, windowOf } from "../../graph/window.js";
import type { VjpContext, VjpTable } from "../types.js";
import { zeros } from "./combinators.js";
import { lateWeight } from "./late.js";

const attrsOf = ({ kernel, strides, dilations, before, after, group }: Omit<Window, "output">): Attrs => ({
  kernel_shape: { ints: kernel },
  strides: { ints: strides },
  dilations: { ints: dilations },
  pads: { ints: [...before, ...after] },
  group: { i: group },
});

const num = (list: readonly Dim[], at: number): number => Number(list[at] ?? 0);

/** Positions behind the last window of each axis, which no output has seen. */
function unseen(window: Window, lengths: readonly Dim[], node: Node): number[] {
  return lengths.map((length, axis) => {
    const stride = num(window.strides, axis);
    if (stride === 1) return 0;
    if (typeof length !== "number") throw needsStatic(node, lengths);
    const room = length + num(window.before, axis) + num(window.after, axis);
    return (room - (num(window.kernel, axis) - 1) * num(window.dilations, axis) - 1) % stride;
  });
}

const needsStatic = (node: Node, lengths: readonly Dim[]) =>
  new TunesmithError(
    "op-not-differentiable",
    `${describe(node)}: its gradient needs static spatial lengths, got [${lengths}]`,
    {
      fix: "bind the graph's symbolic dimensions with specialise() before differentiating",
      details: { op: node.op, node: node.name, scope: node.scope },
    },
  );

/** Back through a convolution to its data: the transposed convolution, as long as the data was. */
function convData(dy: Value, x: Value, w: Value, window: Window, node: Node): Value {
  const padding = { output_padding: { ints: unseen(window, x.shape.slice(2), node) } };
  return ops.reshape(op("ConvTranspose", [dy, w], { ...attrsOf(window), ...padding }), x.shape, [x]);
}

/**
 * Gradient of a convolution's filter `[M, C/g, k]` from the long side `x` `[N, C, ...]` and the short side `d`
 * `[N, M, ...]`: the samples become channels, each `d` a filter, and strides and dilations change places. What no
 * window has seen is cut off first, so that the result is as long as the kernel.
 */
function convFilter(x: Value, d: Value, w: Value, window: Window, node: Node): Value {
  const { group, before, after } = window;
  if (!staticShape(x.shape.slice(2))) throw needsStatic(node, x.shape.slice(2));
  const rest = unseen(window, x.shape.slice(2), node);
  const seen = rest.reduce((value, cut, axis) => {
    const more = cut - num(after, axis);
    return more > 0 ? ops.slice(value, axis + 2, 0, -more) : value;
  }, x);
  const [n, , ...lengths] = seen.shape as [Dim, Dim, ...Dim[]];
  const spatial = lengths.map((_, axis) => axis);
  const perGroup = w.shape[1] as Dim;
  const split = ops.reshape(seen, [n, group, perGroup, ...lengths], [x]);
  const grouped = ops.transpose(split, [2, 1, 0, ...spatial.map((axis) => axis + 3)]);
  const long = ops.reshape(grouped, [perGroup, dimMul(n, group), ...lengths], [x]);
  const swap = [1, 0, ...spatial.map((axis) => axis + 2)];
  const full = op("Conv", [long, ops.transpose(d, swap)], {
    strides: { ints: window.dilations },
    dilations: { ints: window.strides },
    pads: { ints: [...before, ...after.map((pad, axis) => Math.max(0, pad - num(rest, axis)))] },
    group: { i: group },
  });
  return ops.transpose(full, swap);
}

const overSpace = (x: Value): number[] => [...x.shape.keys()].filter((axis) => axis !== 1);

const conv = ({ dy, inputs, needs, node }: VjpContext): (Value | undefined)[] => {
  const [x, w, bias] = inputs as [Value, Value, Value | undefined];
  const window = windowOf(node);
  return [
    needs(0) ? convData(dy, x, needs(1) ? w : lateWeight(w, dy), window, node) : undefined,
    needs(1) ? convFilter(x, dy, w, window, node) : undefined,
    needs(2) && bias ? ops.reduceSum(dy, overSpace(dy), false) : undefined,
  ];
};

/** As long as `x`: where an `output_shape` is longer than the data reaches, the rest comes from nothing. */
const cut = (dx: Value, x: Value): Value =>
  x.shape.reduce<Value>((value, length, axis) => {
    const [have, want] = [Number(value.shape[axis]), Number(length)];
    return axis > 1 && have > want ? ops.slice(value, axis, 0, want) : value;
  }, dx);

/** The transpose of a convolution from the long to the short side: its gradients are that convolution's. */
const convTranspose = ({ dy, inputs, needs, node }: VjpContext): (Value | undefined)[] => {
  const [x, w, bias] = inputs as [Value, Value, Value | undefined];
  const window = transposedWindowOf(node);
  return [
    needs(0) ? cut(op("Conv", [dy, w], attrsOf(window)), x) : undefined,
    needs(1) ? convFilter(dy, x, w, window, node) : undefined,
    needs(2) && bias ? ops.reduceSum(dy, overSpace(dy), false) : undefined,
  ];
};

/** The winners' flat positions come from the kernel; the gradient is scattered back to them. */
const maxPool = ({ dys, inputs, node }: VjpContext): (Value | undefined)[] => {
  const x = inputs[0] as Value;
  const dy = dys[0];
  if (!dy) return [];
  const { storage_order: _, ...attrs } = node.attrs;
  const indices = outputOf(makeNode("MaxPool", [x], attrs, { outputs: 2 }), 1);
  const total = x.shape.reduce<Dim>((product, dim) => dimMul(product, dim), 1);
  const flat = ops.scatterElements(
    zeros([total], x),
    ops.reshape(indices, [-1]),
    ops.reshape(dy, [-1]),
    0,
    "add",
  );
  return [ops.reshape(flat, x.shape, [x])];
};

export const windows: VjpTable = { Conv: conv, ConvTranspose: convTranspose, MaxPool: maxPool };
