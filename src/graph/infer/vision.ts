import { dimDiv, dimMul } from "../dims.js";
import { numbersOf } from "../ints.js";
import type { Dim, Shape } from "../types.js";
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
  const sizes = context.inputs[3] && numbersOf(context.inputs[3]);
  const scales = resizeScales(context);
  const shape: Dim[] = [...x.shape];
  if (sizes) {
    const policy = stringAttr(context.attrs, "keep_aspect_ratio_policy", "stretch");
    const ratios = all.map((axis, at) => (sizes[at] as number) / Number(x.shape[axis]));
    const common = policy === "not_larger" ? Math.min(...ratios) : Math.max(...ratios);
    all.forEach((axis, at) => {
      shape[axis] = policy === "stretch" ? (sizes[at] as number) : Math.round(common * Number(x.shape[axis]));
    });
    return [like(x, shape)];
  }
  if (!scales || scales.length !== all.length)
    throw mismatch(context, "sizes or scales must be constant, one per axis");
  all.forEach((axis, at) => {
    const [dim, scale] = [x.shape[axis] as Dim, scales[at] as number];
    if (scale === 1) return;
    if (typeof dim === "string")
      shape[axis] = scale >= 1 ? dimMul(dim, scale) : dimDiv(dim, Math.round(1 / scale));
    else shape[axis] = Math.floor(dim * scale);
  });
  return [like(x, shape)];
};

/** The constant `scales` input of Resize. */
export function resizeScales(context: Pick<InferContext, "inputs">): number[] | undefined {
  const source = context.inputs[2]?.source;
  if (source?.kind !== "constant" || !("data" in source.data)) return undefined;
  return Array.from(source.data.data as ArrayLike<number>, Number);
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
  ConvTranspose: convTranspose,
  MaxPool: pool,
  AveragePool: pool,
  LpPool: pool,
  GlobalAveragePool: globalPool,
  GlobalMaxPool: globalPool,
  GlobalLpPool: globalPool,
  Resize: resize,
  GridSample: gridSample,
  DepthToSpace: blocks((dim, block, axis) => (axis === 1 ? dimDiv(dim, block * block) : dimMul(dim, block))),
  SpaceToDepth: blocks((dim, block, axis) => (axis === 1 ? dimMul(dim, block * block) : dimDiv(dim, block))),
};
