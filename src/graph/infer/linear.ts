import { broadcastShapes, showShape } from "../dims.js";
import type { Dim, Shape } from "../types.js";
import { type InferContext, type InferRule, intAttr, like, mismatch, need, stringAttr, where } from "./types.js";

const swapLast = (shape: Shape): Shape => [...shape.slice(0, -2), shape.at(-1) as Dim, shape.at(-2) as Dim];

function matmulShape(context: InferContext, a: Shape, b: Shape): Shape {
  const left = a.length === 1 ? [1, ...a] : a;
  const right = b.length === 1 ? [...b, 1] : b;
  const [k1, k2] = [left.at(-1), right.at(-2)];
  if (typeof k1 === "number" && typeof k2 === "number" && k1 !== k2) {
    throw mismatch(context, `inner dimensions differ: ${showShape(a)} x ${showShape(b)}`);
  }
  const batch = broadcastShapes(left.slice(0, -2), right.slice(0, -2), where(context));
  const tail: Dim[] = [];
  if (a.length > 1) tail.push(left.at(-2) as Dim);
  if (b.length > 1) tail.push(right.at(-1) as Dim);
  return [...batch, ...tail];
}

const matmul: InferRule = (context) => {
  const [a, b] = [need(context, 0), need(context, 1)];
  if (a.shape.length === 0 || b.shape.length === 0) throw mismatch(context, "MatMul needs operands of rank >= 1");
  const sa = intAttr(context.attrs, "transA", 0) ? swapLast(a.shape) : a.shape;
  const sb = intAttr(context.attrs, "transB", 0) ? swapLast(b.shape) : b.shape;
  return [like(a, matmulShape(context, sa, sb))];
};

const gemm: InferRule = (context) => {
  const [a, b] = [need(context, 0), need(context, 1)];
  if (a.shape.length !== 2 || b.shape.length !== 2) throw mismatch(context, "Gemm needs matrices");
  const sa = intAttr(context.attrs, "transA", 0) ? swapLast(a.shape) : a.shape;
  const sb = intAttr(context.attrs, "transB", 0) ? swapLast(b.shape) : b.shape;
  const shape = matmulShape(context, sa, sb);
  const bias = context.inputs[2];
  if (bias) broadcastShapes(shape, bias.shape, where(context));
  return [like(a, shape)];
};

const einsum: InferRule = (context) => {
  const [left, right] = stringAttr(context.attrs, "equation", "").replaceAll(" ", "").split("->");
  if (right === undefined || left === undefined) throw mismatch(context, "Einsum needs an explicit '->' result");
  const sizes = new Map<string, Dim>();
  left.split(",").forEach((term, index) => {
    const { shape } = need(context, index);
    if (term.length !== shape.length) throw mismatch(context, `term '${term}' does not fit operand ${index}`);
    [...term].forEach((letter, axis) => {
      const dim = shape[axis] as Dim;
      if (!sizes.has(letter) || sizes.get(letter) === 1) sizes.set(letter, dim);
    });
  });
  return [like(need(context, 0), [...right].map((letter) => sizes.get(letter) as Dim))];
};

export const linear: Record<string, InferRule> = {
  MatMul: matmul,
  "com.microsoft.FusedMatMul": matmul,
  Gemm: gemm,
  Einsum: einsum,
};
