import { isFloat } from "../../tensor/index.js";
import { constantNumbers } from "../constants.js";
import { floatAttr, intAttr, intsAttr, stringAttr } from "../infer/types.js";
import * as ops from "../ops/index.js";
import type { Node, Value } from "../types.js";
import { floats, staticLengths, unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** How one axis is resampled. `scale` is what the node says, not always output/input. */
interface Axis {
  readonly input: number;
  readonly output: number;
  readonly scale: number;
  readonly start: number;
  readonly end: number;
}

const f32 = Math.fround;

/** Where output position `i` lies on the input; in single precision as the kernels compute it. */
function sourcePosition(mode: string, axis: Axis, i: number, node: Node): number {
  const { input, output, scale, start, end } = axis;
  const half = () => f32(f32(f32(i + 0.5) / scale) - 0.5);
  switch (mode) {
    case "half_pixel":
      return half();
    case "half_pixel_symmetric":
      return f32(f32(input / 2) * f32(1 - f32(output / f32(scale * input))) + half());
    case "pytorch_half_pixel":
      return output > 1 ? half() : 0;
    case "align_corners":
      return output === 1 ? 0 : f32(f32(i * (input - 1)) / (output - 1));
    case "asymmetric":
      return f32(i / scale);
    case "tf_crop_and_resize":
      return output > 1
        ? f32(f32(start * (input - 1)) + f32(f32(i * f32(f32(end - start) * (input - 1))) / (output - 1)))
        : f32(0.5 * f32(start + end) * (input - 1));
    default:
      throw unsupported(node, "coordinate_transformation_mode", mode);
  }
}

/** The whole position for a fractional one, by ONNX's `nearest_mode`. */
export function nearest(mode: string, x: number): number {
  const floor = Math.floor(x);
  if (mode === "floor") return floor;
  if (mode === "ceil") return Math.ceil(x);
  if (x - floor === 0.5) return mode === "round_prefer_ceil" ? floor + 1 : floor;
  return Math.round(x);
}

const triangle = (x: number) => Math.max(0, 1 - Math.abs(x));
const cubic = (a: number) => (x: number) => {
  const t = Math.abs(x);
  if (t <= 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? ((a * t - 5 * a) * t + 8 * a) * t - 4 * a : 0;
};

/** The constant matrix `[output, input]` of one axis; rows of positions outside (tf_crop) are zero and not `inside`. */
function axisMatrix(axis: Axis, node: Node): { weights: number[]; inside: number[] } {
  const { input, output, scale } = axis;
  const { attrs } = node;
  const transform = stringAttr(attrs, "coordinate_transformation_mode", "half_pixel");
  const mode = stringAttr(attrs, "mode", "nearest");
  const excludeOutside = intAttr(attrs, "exclude_outside", 0) !== 0;
  const shrink = intAttr(attrs, "antialias", 0) !== 0 ? Math.min(scale, 1) : 1;
  const kernel = mode === "linear" ? triangle : cubic(floatAttr(attrs, "cubic_coeff_a", -0.75));
  const support = (mode === "linear" ? 1 : 2) / shrink;
  const weights = Array<number>(output * input).fill(0);
  const inside = Array<number>(output).fill(1);
  for (let i = 0; i < output; i++) {
    const x = sourcePosition(transform, axis, i, node);
    if (transform === "tf_crop_and_resize" && (x < 0 || x > input - 1)) {
      inside[i] = 0;
      continue;
    }
    if (mode === "nearest") {
      const rounding = stringAttr(attrs, "nearest_mode", "round_prefer_floor");
      weights[i * input + clamp(nearest(rounding, x), input)] = 1;
      continue;
    }
    const taps: [number, number][] = [];
    for (let k = Math.floor(x - support) + 1; k <= Math.ceil(x + support) - 1; k++) {
      if (!excludeOutside || (k >= 0 && k < input)) taps.push([k, kernel((k - x) * shrink)]);
    }
    const total = taps.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [k, weight] of taps) {
      const at = i * input + clamp(k, input);
      weights[at] = (weights[at] ?? 0) + weight / total;
    }
  }
  return { weights, inside };
}

const clamp = (k: number, length: number) => Math.min(Math.max(k, 0), length - 1);

/** `matrix · x` along one axis. */
function alongAxis(x: Value, axis: number, matrix: Value): Value {
  const rank = x.shape.length;
  if (axis === rank - 2) return ops.matmul(matrix, x);
  const swap = [...Array(rank).keys()].with(axis, rank - 1).with(rank - 1, axis);
  const turned = ops.matmul(ops.transpose(x, swap), ops.transpose(matrix, [1, 0]));
  return ops.transpose(turned, swap);
}

/** Interpolation is linear in the data: one constant matrix per resized axis. Integers are interpolated as floats. */
const resize: Decomposition = (inputs, node) => {
  const given = inputs[0] as Value;
  if (isFloat(given.dtype)) return resized(given, inputs, node);
  const [y] = resized(ops.cast(given, "float32"), inputs, node);
  return [y && ops.cast(y, given.dtype)];
};

function resized(
  x: Value,
  inputs: readonly (Value | undefined)[],
  node: Node,
): readonly (Value | undefined)[] {
  const rank = x.shape.length;
  const target = (node.outputs[0] as Value).shape;
  const axes = intsAttr(node.attrs, "axes")?.map((axis) => (axis < 0 ? axis + rank : axis)) ?? [
    ...Array(rank).keys(),
  ];
  const scales = inputs[3] ? undefined : constantNumbers(inputs[2]);
  const crop = stringAttr(node.attrs, "coordinate_transformation_mode", "") === "tf_crop_and_resize";
  const roi = crop ? constantNumbers(inputs[1]) : undefined;
  let y = x;
  let inside: Value | undefined;
  axes.forEach((axis, at) => {
    const [start, end] = [roi?.[at] ?? 0, roi?.[at + axes.length] ?? 1];
    const same = x.shape[axis] === target[axis] && (scales?.[at] ?? 1) === 1 && start === 0 && end === 1;
    if (same) return;
    const [input, output] = staticLengths(node, [x.shape[axis] ?? 1, target[axis] ?? 1], "resized axes") as [
      number,
      number,
    ];
    const { weights, inside: rows } = axisMatrix(
      { input, output, scale: f32(scales?.[at] ?? output / input), start, end },
      node,
    );
    y = alongAxis(y, axis, floats([output, input], weights, x.dtype));
    if (rows.includes(0)) {
      const mask = floats([output, ...Array<number>(rank - 1 - axis).fill(1)], rows, x.dtype);
      inside = inside ? ops.mul(inside, mask) : mask;
    }
  });
  if (!inside) return [y];
  return [ops.add(y, ops.mul(ops.sub(1, inside), floatAttr(node.attrs, "extrapolation_value", 0)))];
}

export const resizes: DecompositionTable = { Resize: resize };
