import { floatAttr, intAttr, stringAttr } from "../infer/types.js";
import { numbersOf } from "../ints.js";
import * as ops from "../ops/index.js";
import type { Dim, Value } from "../types.js";
import { floats, staticLengths, unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** x / (bias + alpha / size · Σ x² over neighbouring channels)^beta */
const localResponse: Decomposition = ([value], node) => {
  const x = value as Value;
  const size = intAttr(node.attrs, "size", 1);
  const before = Math.floor((size - 1) / 2);
  const none = x.shape.map(() => 0);
  const around = (count: number) => none.map((_, axis) => (axis === 1 ? count : 0));
  const padded = ops.pad(ops.square(x), around(before), around(size - 1 - before));
  const shifted = Array.from({ length: size }, (_, at) =>
    at === size - 1 ? ops.slice(padded, 1, at) : ops.slice(padded, 1, at, at + 1 - size),
  );
  const sum = shifted.reduce((a, b) => ops.add(a, b));
  const scale = ops.add(
    ops.mul(sum, floatAttr(node.attrs, "alpha", 1e-4) / size),
    floatAttr(node.attrs, "bias", 1),
  );
  return [ops.div(x, ops.pow(scale, floatAttr(node.attrs, "beta", 0.75)))];
};

interface Axis {
  /** Where regions begin and end on this axis, `[regions]`. */
  readonly from: Value;
  readonly to: Value;
  readonly bins: number;
  readonly length: number;
}

/** How much every position counts in every bin, `[regions, bins, length]`: the mean of linear interpolations. */
function coverage({ from, to, bins, length }: Axis, samples: number, atLeastOne: boolean): Value {
  const size = atLeastOne ? ops.max(ops.sub(to, from), 1) : ops.sub(to, from);
  const steps = Array.from({ length: bins * samples }, (_, at) => (at + 0.5) / (bins * samples));
  const offsets = ops.mul(ops.unsqueeze(size, 1), floats([1, steps.length], steps, from.dtype));
  const places = ops.add(ops.unsqueeze(from, 1), offsets);
  const inside = ops.and(ops.greaterOrEqual(places, -1), ops.lessOrEqual(places, length));
  const positions = floats([length], [...Array(length).keys()], from.dtype);
  const distance = ops.abs(ops.sub(ops.unsqueeze(ops.clip(places, 0, length - 1), -1), positions));
  const weights = ops.where(ops.unsqueeze(inside, -1), ops.relu(ops.sub(1, distance)), 0);
  const grouped = ops.reshape(weights, [weights.shape[0] as Dim, bins, samples, length], [weights]);
  return ops.reduceMean(grouped, [2], false);
}

/** Means of bilinear samples: a matrix on each side of the image a region lies in. */
const roiAlign: Decomposition = ([x, rois, images], node) => {
  const [data, boxes] = [x as Value, rois as Value];
  const samples = intAttr(node.attrs, "sampling_ratio", 0);
  if (samples < 1)
    throw unsupported(node, "sampling_ratio", samples, "export with a fixed number of samples");
  const mode = stringAttr(node.attrs, "mode", "avg");
  if (mode !== "avg") throw unsupported(node, "mode", mode);
  const shifts = stringAttr(node.attrs, "coordinate_transformation_mode", "half_pixel") === "half_pixel";
  const [height, width] = staticLengths(node, data.shape.slice(2), "spatial lengths") as [number, number];
  const scaled = ops.mul(boxes, floatAttr(node.attrs, "spatial_scale", 1));
  const [left, top, right, bottom] = ops
    .split(shifts ? ops.sub(scaled, 0.5) : scaled, [1, 1, 1, 1], 1)
    .map((edge) => ops.squeeze(edge, 1)) as [Value, Value, Value, Value];
  const bins = (name: string) => intAttr(node.attrs, name, 1);
  const rows = { from: top, to: bottom, bins: bins("output_height"), length: height };
  const columns = { from: left, to: right, bins: bins("output_width"), length: width };
  const [vertical, horizontal] = [rows, columns].map((axis) =>
    ops.unsqueeze(coverage(axis, samples, !shifts), 1),
  ) as [Value, Value];
  const chosen = ops.gather(data, images as Value, 0);
  return [ops.matmul(ops.matmul(vertical, chosen), ops.transposeLast(horizontal))];
};

/** Coordinates of every position of a grid, turned by `theta` `[N, 2, 3]` or `[N, 3, 4]`. */
const affineGrid: Decomposition = ([theta, size], node) => {
  const lengths = numbersOf(size)?.slice(2);
  if (!lengths) throw unsupported(node, "size", "known at run time only");
  const corners = intAttr(node.attrs, "align_corners", 0) !== 0;
  const place = (length: number, at: number) =>
    corners ? (length === 1 ? 0 : (2 * at) / (length - 1) - 1) : (2 * at + 1) / length - 1;
  const count = lengths.reduce((a, b) => a * b, 1);
  const base = Array.from({ length: count }, (_, flat) => {
    let rest = flat;
    const coordinates = lengths.toReversed().map((length) => {
      const at = rest % length;
      rest = Math.floor(rest / length);
      return place(length, at);
    });
    return [...coordinates, 1];
  }).flat();
  const turned = theta as Value;
  const grid = ops.matmul(floats([count, lengths.length + 1], base, turned.dtype), ops.transposeLast(turned));
  return [ops.reshape(grid, [turned.shape[0] as Dim, ...lengths, lengths.length], [turned])];
};

export const regions: DecompositionTable = { LRN: localResponse, RoiAlign: roiAlign, AffineGrid: affineGrid };
