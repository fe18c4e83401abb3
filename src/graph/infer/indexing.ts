import { numbersOf } from "../ints.js";
import type { Dim } from "../types.js";
import { axisAttr, type InferRule, intAttr, like, mismatch, need } from "./types.js";

const gather: InferRule = (context) => {
  const [data, indices] = [need(context, 0), need(context, 1)];
  const axis = axisAttr(context, "axis", 0, data.shape.length);
  return [like(data, [...data.shape.slice(0, axis), ...indices.shape, ...data.shape.slice(axis + 1)])];
};

const gatherNd: InferRule = (context) => {
  const [data, indices] = [need(context, 0), need(context, 1)];
  const batch = intAttr(context.attrs, "batch_dims", 0);
  const depth = indices.shape.at(-1);
  if (typeof depth !== "number") throw mismatch(context, "the last axis of the indices must be static");
  return [like(data, [...indices.shape.slice(0, -1), ...data.shape.slice(batch + depth)])];
};

const oneHot: InferRule = (context) => {
  const [indices, depth, values] = [need(context, 0), need(context, 1), need(context, 2)];
  const rank = indices.shape.length + 1;
  const axis = axisAttr(context, "axis", -1, rank);
  const size: Dim = numbersOf(depth)?.[0] ?? `depth_${depth.id}`;
  return [like(values, [...indices.shape.slice(0, axis), size, ...indices.shape.slice(axis)])];
};

export const indexing: Record<string, InferRule> = {
  Gather: gather,
  GatherElements: (context) => [like(need(context, 0), need(context, 1).shape)],
  GatherND: gatherNd,
  ScatterElements: (context) => [like(need(context, 0))],
  ScatterND: (context) => [like(need(context, 0))],
  OneHot: oneHot,
  NonZero: (context) => [
    { dtype: "int64", shape: [need(context, 0).shape.length, `nonzero_${need(context, 0).id}`] },
  ],
};
