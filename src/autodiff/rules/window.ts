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

const attrsOf = ({ kernel, strides, dilations, before, after, group }: Omit<Window, "output">): Attrs => ({
  kernel_shape: { ints: kernel },
  strides: { ints: strides },
  dilations: { ints: dilations },
  pads: { ints: [...before, ...after] },
  group: { i: group },
});

const num = (list: readonly Dim[], at: number): number => Number(list[at] ?? 0);

function staticSpatial(node: Node, x: Value): number[] {
  const known = staticShape(x.shape.slice(2));
  if (known) return known;
  throw new TunesmithError(
    "op-not-differentiable",
    `${describe(node)}: its gradient needs static spatial lengths, got [${x.shape}]`,
    {
      fix: "bind the graph's symbolic dimensions with specialise() before differentiating",
      details: { op: node.op, node: node.name, scope: node.scope },
    },
  );
}

/** Back through a convolution to its data: the transposed convolution, as long as the data was. */
function convData(dy: Value, x: Value, w: Value, window: Window, node: Node): Value {
  const lengths = staticSpatial(node, x);
  // Positions behind the last window that no output has seen.
  const rest = lengths.map((length, axis) => {
    const room = length + num(window.before, axis) + num(window.after, axis);
    return (
      (room - (num(window.kernel, axis) - 1) * num(window.dilations, axis) - 1) % num(window.strides, axis)
    );
  });
  return op("ConvTranspose", [dy, w], { ...attrsOf(window), output_padding: { ints: rest } });
}

/**
 * Gradient of a convolution's filter `[M, C/g, k]` from the long side `x` `[N, C, ...]` and the short side `d`
 * `[N, M, ...]`: the samples become channels, each `d` a filter, and strides and dilations change places.
 */
function convFilter(x: Value, d: Value, w: Value, window: Window): Value {
  const { group, kernel } = window;
  const n = x.shape[0] as Dim;
  const rest = x.shape.slice(2);
  const spatial = rest.map((_, axis) => axis);
  const perGroup = w.shape[1] as Dim;
  const grouped = ops.transpose(ops.reshape(x, [n, group, perGroup, ...rest]), [
    2,
    1,
    0,
    ...spatial.map((axis) => axis + 3),
  ]);
  const long = ops.reshape(grouped, [perGroup, dimMul(n, group), ...rest], [x]);
  const swap = [1, 0, ...spatial.map((axis) => axis + 2)];
  const filters = ops.transpose(d, swap);
  const { kernel_shape: _, ...attrs } = attrsOf({
    ...window,
    strides: window.dilations,
    dilations: window.strides,
  });
  let full = op("Conv", [long, filters], attrs);
  kernel.forEach((size, axis) => {
    if (full.shape[axis + 2] !== size) full = ops.slice(full, axis + 2, 0, size);
  });
  return ops.transpose(full, swap);
}

const overSpace = (x: Value): number[] => [...x.shape.keys()].filter((axis) => axis !== 1);

const conv = ({ dy, inputs, needs, node }: VjpContext): (Value | undefined)[] => {
  const [x, w, bias] = inputs as [Value, Value, Value | undefined];
  const window = windowOf(node);
  return [
    needs(0) ? convData(dy, x, w, window, node) : undefined,
    needs(1) ? convFilter(x, dy, w, window) : undefined,
    needs(2) && bias ? ops.reduceSum(dy, overSpace(dy), false) : undefined,
  ];
};

/** The transpose of a convolution from the long to the short side: its gradients are that convolution's. */
const convTranspose = ({ dy, inputs, needs, node }: VjpContext): (Value | undefined)[] => {
  const [x, w, bias] = inputs as [Value, Value, Value | undefined];
  const window = transposedWindowOf(node);
  // An output longer than the windows cover (output_padding >= stride) adds windows at the end, which are cut off.
  const cut = (value: Value) =>
    x.shape.slice(2).reduce<Value>((y, length, axis) => {
      return typeof length === "number" && y.shape[axis + 2] !== length
        ? ops.slice(y, axis + 2, 0, length)
        : y;
    }, value);
  return [
    needs(0) ? cut(op("Conv", [dy, w], attrsOf(window))) : undefined,
    needs(1) ? convFilter(dy, x, w, window) : undefined,
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
