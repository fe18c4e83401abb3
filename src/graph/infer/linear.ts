import { broadcastShapes, showShape } from "../dims.js";
import { einsumTerms } from "../einsum.js";
import type { Dim, Shape } from "../types.js";
import {
  type InferContext,
  type InferRule,
  intAttr,
  like,
  mismatch,
  need,
  stringAttr,
  where,
} from "./types.js";

const swapLast = (shape: Shape): Shape => [...shape.slice(0, -2), shape.at(-1) as Dim, shape.at(-2) as Dim];

/** Shape of a matrix product with batch broadcasting. */
export function matmulShape(context: InferContext, a: Shape, b: Shape): Shape {
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
  if (a.shape.length === 0 || b.shape.length === 0)
    throw mismatch(context, "MatMul needs operands of rank >= 1");
  const turned = (shape: Shape, side: "A" | "B"): Shape => {
    const moved = intAttr(context.attrs, `transBatch${side}`, 0)
      ? [...shape.slice(1, -1), shape[0] as Dim, shape.at(-1) as Dim]
      : shape;
    return intAttr(context.attrs, `trans${side}`, 0) ? swapLast(moved) : moved;
  };
  return [like(a, matmulShape(context, turned(a.shape, "A"), turned(b.shape, "B")))];
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
  const shapes = context.inputs.map((_, index) => need(context, index).shape);
  const equation = stringAttr(context.attrs, "equation", "");
  const { terms, result } = einsumTerms(
    equation,
    shapes.map((shape) => shape.length),
    where(context),
  );
  const sizes = new Map<string, Dim>();
  terms.forEach((term, index) => {
    [...term].forEach((letter, axis) => {
      const [dim, known] = [shapes[index]?.[axis] as Dim, sizes.get(letter)];
      if (known === undefined || known === 1) sizes.set(letter, dim);
      else if (typeof dim === "number" && typeof known === "number" && dim !== 1 && dim !== known) {
        throw mismatch(context, `axis '${letter}' of '${equation}' is ${known} and ${dim}`);
      }
    });
  });
  return [
    like(
      need(context, 0),
      [...result].map((letter) => sizes.get(letter) as Dim),
    ),
  ];
};

export const linear: Record<string, InferRule> = {
  MatMul: matmul,
  "com.microsoft.FusedMatMul": matmul,
  "com.microsoft.TransposeMatMul": matmul,
  "com.microsoft.FusedMatMulActivation": matmul,
  "com.microsoft.GemmFastGelu": matmul,
  Gemm: gemm,
  "com.microsoft.FusedGemm": gemm,
  Einsum: einsum,
};
