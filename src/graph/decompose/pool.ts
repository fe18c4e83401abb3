import { op } from "../create.js";
import { dimMul } from "../dims.js";
import { intAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { type Window, windowOf } from "../window.js";
import { axesFrom, floats, staticLengths } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** Sums over sliding windows: a convolution of every channel with ones. */
function windowSums(
  x: Value,
  node: Node,
): { sums: Value; window: Window; output: number[]; input: number[] } {
  const window = windowOf({ ...node, inputs: [x] });
  const input = staticLengths(node, x.shape.slice(2), "spatial lengths");
  const output = staticLengths(node, window.output, "spatial lengths");
  const [n, c] = x.shape as [Dim, Dim];
  const flat = ops.reshape(x, [dimMul(n, c), 1, ...input]);
  const kernel = [1, 1, ...window.kernel];
  const ones = floats(kernel, Array<number>(kernel.reduce((a, b) => a * b, 1)).fill(1), x.dtype);
  const missing = output.map((length, axis) => {
    const reach =
      (length - 1) * num(window.strides, axis) +
      (num(window.kernel, axis) - 1) * num(window.dilations, axis) +
      1;
    return Math.max(num(window.after, axis), reach - num(input, axis) - num(window.before, axis));
  });
  const summed = op("Conv", [flat, ones], {
    kernel_shape: { ints: window.kernel },
    strides: { ints: window.strides },
    dilations: { ints: window.dilations },
    pads: { ints: [...window.before, ...missing] },
  });
  return { sums: ops.reshape(summed, [n, c, ...output], [x]), window, output, input };
}

const num = (list: readonly number[], at: number): number => list[at] ?? 0;

/** How many positions each window averages over, along one axis. */
function counts(window: Window, input: number, output: number, axis: number, includePad: boolean): number[] {
  const [before, after] = [num(window.before, axis), num(window.after, axis)];
  const [low, high] = includePad ? [-before, input + after] : [0, input];
  return Array.from({ length: output }, (_, i) => {
    const start = i * num(window.strides, axis) - before;
    return axesFrom(0, num(window.kernel, axis)).filter((tap) => {
      const position = start + tap * num(window.dilations, axis);
      return position >= low && position < high;
    }).length;
  });
}

const averagePool: Decomposition = ([x], node) => {
  const { sums, window, output, input } = windowSums(x as Value, node);
  const includePad = intAttr(node.attrs, "count_include_pad", 0) !== 0;
  const perAxis = output.map((length, axis) => counts(window, num(input, axis), length, axis, includePad));
  const map = perAxis.reduce<number[]>((acc, list) => acc.flatMap((a) => list.map((b) => a * b)), [1]);
  const same = map.every((count) => count === map[0]);
  return [ops.div(sums, same ? (map[0] as number) : floats(output, map, sums.dtype))];
};

const raise = (x: Value, p: number): Value =>
  p === 1 ? ops.abs(x) : p === 2 ? ops.square(x) : ops.pow(ops.abs(x), p);
const root = (x: Value, p: number): Value => (p === 1 ? x : p === 2 ? ops.sqrt(x) : ops.pow(x, 1 / p));

const lpPool: Decomposition = ([x], node) => {
  const p = intAttr(node.attrs, "p", 2);
  return [root(windowSums(raise(x as Value, p), node).sums, p)];
};

const spatial = (x: Value) => axesFrom(2, x.shape.length);

export const pools: DecompositionTable = {
  AveragePool: averagePool,
  LpPool: lpPool,
  GlobalAveragePool: ([x]) => [ops.reduceMean(x as Value, spatial(x as Value))],
  GlobalMaxPool: ([x]) => [ops.reduceMax(x as Value, spatial(x as Value))],
  GlobalLpPool: ([x], node) => {
    const p = intAttr(node.attrs, "p", 2);
    return [root(ops.reduceSum(raise(x as Value, p), spatial(x as Value)), p)];
  },
};
