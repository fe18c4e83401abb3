import { op } from "../create.js";
import { intAttr, stringAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Dim, Node, Value } from "../types.js";
import { staticLengths, unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** One sample point of an axis: integer position (as float) and its weight (undefined: 1). */
interface Tap {
  readonly position: Value;
  readonly weight: Value | undefined;
  /** 1 inside the data, 0 in zero padding. */
  readonly inside: Value | undefined;
}

const floor = (x: Value) => op("Floor", [x]);

/** Grid coordinates in [-1, 1] to positions on an axis of `length`. */
function position(grid: Value, length: number, alignCorners: boolean): Value {
  const shifted = ops.add(grid, 1);
  return alignCorners ? ops.mul(shifted, (length - 1) / 2) : ops.sub(ops.mul(shifted, length / 2), 0.5);
}

/** Reflects positions into the data: a triangle wave between the borders. */
function reflect(x: Value, length: number, alignCorners: boolean): Value {
  const low = alignCorners ? 0 : -0.5;
  const span = alignCorners ? length - 1 : length;
  if (span === 0) return ops.mul(x, 0);
  const distance = ops.sub(x, low);
  const phase = ops.sub(distance, ops.mul(floor(ops.div(distance, 2 * span)), 2 * span));
  return ops.add(ops.sub(span, ops.abs(ops.sub(phase, span))), low);
}

/** Keys' cubic kernel with a = -0.75 at distances t+1, t, 1-t, 2-t. */
function cubicWeights(t: Value): Value[] {
  const a = -0.75;
  const near = (s: Value) => ops.add(ops.mul(ops.square(s), ops.sub(ops.mul(s, a + 2), a + 3)), 1);
  const far = (s: Value) =>
    ops.sub(ops.mul(s, ops.add(ops.mul(s, ops.sub(ops.mul(s, a), 5 * a)), 8 * a)), 4 * a);
  const rest = ops.sub(1, t);
  return [far(ops.add(t, 1)), near(t), near(rest), far(ops.add(rest, 1))];
}

function tapsOf(coordinate: Value, length: number, node: Node): Tap[] {
  const padding = stringAttr(node.attrs, "padding_mode", "zeros");
  const alignCorners = intAttr(node.attrs, "align_corners", 0) !== 0;
  const at = (positions: Value, weight: Value | undefined): Tap => {
    const clipped = (x: Value) => ops.clip(x, 0, length - 1);
    if (padding === "border") return { position: clipped(positions), weight, inside: undefined };
    if (padding === "reflection") {
      return { position: clipped(reflect(positions, length, alignCorners)), weight, inside: undefined };
    }
    const valid = ops.and(ops.greaterOrEqual(positions, 0), ops.lessOrEqual(positions, length - 1));
    return { position: clipped(positions), weight, inside: ops.cast(valid, positions.dtype) };
  };
  const x = position(coordinate, length, alignCorners);
  const mode = stringAttr(node.attrs, "mode", "linear");
  if (mode === "nearest") return [at(op("Round", [x]), undefined)];
  const base = floor(x);
  const t = ops.sub(x, base);
  if (mode === "linear" || mode === "bilinear") return [at(base, ops.sub(1, t)), at(ops.add(base, 1), t)];
  if (mode === "cubic" || mode === "bicubic") {
    return cubicWeights(t).map((weight, k) => at(ops.add(base, k - 1), weight));
  }
  throw unsupported(node, "mode", mode);
}

/** `[N, C, spatial]` sampled at `[N, points, spatialRank]` (x first): a weighted sum of gathers, one per corner. */
const gridSample: Decomposition = (inputs, node) => {
  const [x, grid] = inputs as [Value, Value];
  const spatial = staticLengths(node, x.shape.slice(2), "spatial lengths");
  const [n, c] = x.shape as [Dim, Dim];
  const points = staticLengths(node, grid.shape.slice(1, -1), "the grid");
  const count = points.reduce((a, b) => a * b, 1);
  const flat = ops.reshape(x, [n, c, spatial.reduce((a, b) => a * b, 1)]);
  const axes = spatial.map((length, axis) => {
    const column = ops.slice(grid, -1, spatial.length - 1 - axis, spatial.length - axis);
    return tapsOf(ops.reshape(column, [n, 1, count]), length, node);
  });
  const corners = axes.reduce<Tap[][]>(
    (acc, taps) => acc.flatMap((corner) => taps.map((tap) => [...corner, tap])),
    [[]],
  );
  const parts = corners.map((corner) => {
    const index = corner
      .map((tap) => tap.position)
      .reduce((acc, at, axis) => ops.add(ops.mul(acc, spatial[axis] as number), at));
    const wide = ops.expand(ops.cast(index, "int64"), [n, c, count], [x]);
    const factors = corner.flatMap((tap) => [tap.weight, tap.inside]).filter((value) => value !== undefined);
    return factors.reduce<Value>(
      (value, factor) => ops.mul(value, factor),
      ops.gatherElements(flat, wide, 2),
    );
  });
  return [
    ops.reshape(
      parts.reduce((a, b) => ops.add(a, b)),
      [n, c, ...points],
      [x],
    ),
  ];
};

export const gridSamples: DecompositionTable = { GridSample: gridSample };
