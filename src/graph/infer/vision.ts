import { dimDiv, dimMul } from "../dims.js";
import { knownTensor } from "../evaluate.js";
import { intsOf } from "../ints.js";
import type { Dim, Shape, Value } from "../types.js";
import { transposedWindowOf, windowOf } from "../window.js";
import {
  type InferContext,
  type InferRule,
  intAttr,
  intsAttr,
  like,
  mismatch,
  need,
  stringAttr,
} from "./types.js";

const conv: InferRule = (context) => {
  const [x, w] = [need(context, 0), need(context, 1)];
  const channels = w.shape[1];
  const group = intAttr(context.attrs, "group", 1);
  if (w.shape.length !== x.shape.length) throw mismatch(context, "the filter has another rank than the data");
  if (typeof channels === "number" && typeof x.shape[1] === "number" && channels * group !== x.shape[1]) {
    throw mismatch(
      context,
      `${x.shape[1]} channels do not fit a filter of ${channels} channels in ${group} groups`,
    );
  }
  return [like(x, [x.shape[0] as Dim, w.shape[0] as Dim, ...windowOf(context).output])];
};

/** Data and result have their channels last, the filter first. */
const nhwcConv: InferRule = (context) => {
  const [x, w] = [need(context, 0), need(context, 1)];
  const [batch, ...rest] = x.shape as [Dim, ...Dim[]];
  const data = { ...x, shape: [batch, rest.at(-1) as Dim, ...rest.slice(0, -1)] };
  return [like(x, [batch, ...windowOf({ ...context, inputs: [data, w] }).output, w.shape[0] as Dim])];
};

const convTranspose: InferRule = (context) => {
  const [x, w] = [need(context, 0), need(context, 1)];
  const group = intAttr(context.attrs, "group", 1);
  return [
    like(x, [x.shape[0] as Dim, dimMul(w.shape[1] as Dim, group), ...transposedWindowOf(context).output]),
  ];
};

const pool: InferRule = (context) => {
  const x = need(context, 0);
  const shape = [...x.shape.slice(0, 2), ...windowOf(context).output];
  return context.op === "MaxPool" && context.outputs === 2
    ? [like(x, shape), { dtype: "int64", shape }]
    : [like(x, shape)];
};

const globalPool: InferRule = (context) => {
  const x = need(context, 0);
  return [
    like(
      x,
      x.shape.map((dim, axis) => (axis < 2 ? dim : 1)),
    ),
  ];
};

const resize: InferRule = (context) => {
  const x = need(context, 0);
  const axes = intsAttr(context.attrs, "axes")?.map((axis) => (axis < 0 ? axis + x.shape.length : axis));
  const all = axes ?? x.shape.map((_, axis) => axis);
  const sizes = context.inputs[3] && intsOf(context.inputs[3]);
  const policy = stringAttr(context.attrs, "keep_aspect_ratio_policy", "stretch");
  const shape: Dim[] = [...x.shape];
  if (sizes?.length === all.length) {
    const known = all.map((axis, at) => Number(sizes[at]) / Number(x.shape[axis]));
    const common = policy === "not_larger" ? Math.min(...known) : Math.max(...known);
    for (const [at, axis] of all.entries()) {
      const kept = Number.isNaN(common) ? openAxis(x, axis) : Math.round(common * Number(x.shape[axis]));
      shape[axis] = policy === "stretch" ? (sizes[at] as Dim) : kept;
    }
    return [like(x, shape)];
  }
  const scales = resizeScales(context);
  if (scales && scales.length !== all.length) throw mismatch(context, "there must be one scale per axis");
  for (const [at, axis] of all.entries()) {
    shape[axis] = scales ? scaledAxis(x, axis, scales[at] as number) : openAxis(x, axis);
  }
  return [like(x, shape)];
};

/** A length that is only known at run time. */
const openAxis = (x: Value, axis: number): Dim => `resized_${x.id}_${axis}`;

function scaledAxis(x: Value, axis: number, scale: number): Dim {
  const dim = x.shape[axis] as Dim;
  if (scale === 1) return dim;
  if (typeof dim === "number") return Math.floor(dim * scale);
  if (Number.isInteger(scale)) return dimMul(dim, scale);
  return Number.isInteger(1 / scale) ? dimDiv(dim, 1 / scale) : openAxis(x, axis);
}

/** The `scales` input of Resize, where it is known. */
export function resizeScales(context: Pick<InferContext, "inputs">): number[] | undefined {
  const known = context.inputs[2] && knownTensor(context.inputs[2]);
  return known && Array.from(known.data as ArrayLike<number>, Number);
}

const gridSample: InferRule = (context) => {
  const [x, grid] = [need(context, 0), need(context, 1)];
  return [like(x, [...x.shape.slice(0, 2), ...grid.shape.slice(1, -1)])];
};

/** [N, C, H, W] with blocks moved between channels and space. */
const blocks =
  (change: (dim: Dim, block: number, axis: number) => Dim): InferRule =>
  (context) => {
    const x = need(context, 0);
    if (x.shape.length !== 4) throw mismatch(context, "the input must be [N, C, H, W]");
    const block = intAttr(context.attrs, "blocksize", 1);
    const shape: Shape = x.shape.map((dim, axis) => (axis === 0 ? dim : change(dim, block, axis)));
    return [like(x, shape)];
  };

export const vision: Record<string, InferRule> = {
  Conv: conv,
  "com.microsoft.FusedConv": conv,
  "com.microsoft.NhwcConv": nhwcConv,
  ConvTranspose: convTranspose,
  MaxPool: pool,
  AveragePool: pool,
  LpPool: pool,
  GlobalAveragePool: globalPool,
  GlobalMaxPool: globalPool,
  GlobalLpPool: globalPool,
  Resize: resize,
  GridSample: gridSample,
  AffineGrid: (context) => {
    const [theta, size] = [need(context, 0), need(context, 1)];
    const lengths =
      intsOf(size)?.slice(2) ??
      Array.from({ length: Number(size.shape[0]) - 2 }, (_, at) => `grid_${size.id}_${at}`);
    return [like(theta, [theta.shape[0] as Dim, ...lengths, lengths.length])];
  },
  DepthToSpace: blocks((dim, block, axis) => (axis === 1 ? dimDiv(dim, block * block) : dimMul(dim, block))),
  SpaceToDepth: blocks((dim, block, axis) => (axis === 1 ? dimMul(dim, block * block) : dimDiv(dim, block))),
};
