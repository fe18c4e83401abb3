import { op } from "../create.js";
import type { Attrs, Value } from "../types.js";

/** Matrix product over the last two axes; the axes before them broadcast. */
export const matmul = (a: Value, b: Value): Value => op("MatMul", [a, b]);

export interface GemmOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly alpha?: number;
  readonly beta?: number;
}

/** alpha·op(a)·op(b) + beta·c over matrices; the form every linear layer takes (`[N, in] x [out, in]ᵀ + [out]`). */
export function gemm(a: Value, b: Value, c?: Value, options: GemmOptions = {}): Value {
  const attrs: Record<string, Attrs[string]> = {};
  if (options.transA) attrs.transA = { i: 1 };
  if (options.transB) attrs.transB = { i: 1 };
  if (options.alpha !== undefined && options.alpha !== 1) attrs.alpha = { f: options.alpha };
  if (options.beta !== undefined && options.beta !== 1) attrs.beta = { f: options.beta };
  return op("Gemm", c ? [a, b, c] : [a, b], attrs);
}

/** Sum of products by an equation with explicit output, such as `"bij,bjk->bik"`. */
export const einsum = (equation: string, ...operands: Value[]): Value =>
  op("Einsum", operands, { equation: { s: equation } });
