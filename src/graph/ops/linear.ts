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

/** How a convolution slides; what is left out takes ONNX's default (stride 1, no padding). */
export interface ConvOptions {
  readonly strides?: readonly number[];
  /** Before and after each spatial axis: all beginnings, then all ends. */
  readonly pads?: readonly number[];
  readonly dilations?: readonly number[];
  readonly group?: number;
}

/** Convolution of `[N, C, ...space]` with `[out, C / group, ...kernel]`. */
export function conv(x: Value, weight: Value, bias?: Value, options: ConvOptions = {}): Value {
  const attrs: Record<string, Attrs[string]> = {};
  for (const key of ["strides", "pads", "dilations"] as const) {
    const ints = options[key];
    if (ints) attrs[key] = { ints };
  }
  if (options.group !== undefined && options.group !== 1) attrs.group = { i: options.group };
  return op("Conv", bias ? [x, weight, bias] : [x, weight], attrs);
}

/** Sum of products by an equation with explicit output, such as `"bij,bjk->bik"`. */
export const einsum = (equation: string, ...operands: Value[]): Value =>
  op("Einsum", operands, { equation: { s: equation } });
