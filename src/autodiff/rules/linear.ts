import { dimProduct, ops, type Value } from "../../graph/index.js";
import type { VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";
import { lateWeight } from "./late.js";

const flag = (attrs: Readonly<Record<string, unknown>>, name: string): boolean =>
  Number((attrs[name] as { i?: number } | undefined)?.i ?? 0) !== 0;
const real = (attrs: Readonly<Record<string, unknown>>, name: string): number =>
  (attrs[name] as { f?: number } | undefined)?.f ?? 1;

/** Rows of a value as one matrix `[prod(leading), last]`. */
const asMatrix = (x: Value): Value => ops.reshape(x, [dimProduct(x.shape.slice(0, -1)), x.shape.at(-1) ?? 1]);

const sizeOf = (x: Value): number => {
  const count = dimProduct(x.shape);
  return typeof count === "number" ? count : Number.POSITIVE_INFINITY;
};

/**
 * The two factors of a data gradient, made to wait for the weight gradient (an edge on the smaller factor). The runtime
 * would otherwise put weight gradients, which nothing else needs, at the end of the run, and keep every layer's
 * activations alive for them. Frozen weights made from codes are made again.
 */
function afterWeightGradient(dy: Value, weight: Value, dWeight: Value | undefined): [Value, Value] {
  if (!dWeight) return [dy, lateWeight(weight, dy)];
  return sizeOf(weight) <= sizeOf(dy) ? [dy, ops.after(weight, dWeight)] : [ops.after(dy, dWeight), weight];
}

function matmulLeft(dy: Value, a: Value, b: Value): Value {
  if (b.shape.length === 2) {
    const flat = ops.gemm(asMatrix(dy), b, undefined, { transB: true });
    return ops.reshape(flat, a.shape, [a]);
  }
  return unbroadcast(ops.matmul(dy, ops.transposeLast(b)), a.shape, a);
}

function matmulRight(dy: Value, a: Value, b: Value): Value {
  if (b.shape.length === 2) return ops.matmul(ops.transpose(asMatrix(a), [1, 0]), asMatrix(dy));
  return unbroadcast(ops.matmul(ops.transposeLast(a), dy), b.shape, b);
}

export const linear: VjpTable = {
  MatMul: ({ dy, inputs, needs }) => {
    const [rawA, rawB] = [inputs[0] as Value, inputs[1] as Value];
    const a = rawA.shape.length === 1 ? ops.unsqueeze(rawA, 0) : rawA;
    const b = rawB.shape.length === 1 ? ops.unsqueeze(rawB, 1) : rawB;
    let d = dy;
    if (rawB.shape.length === 1) d = ops.unsqueeze(d, -1);
    if (rawA.shape.length === 1) d = ops.unsqueeze(d, -2);
    const right = needs(1) ? ops.reshape(matmulRight(d, a, b), rawB.shape, [rawB]) : undefined;
    if (!needs(0)) return [undefined, right];
    const [late, weight] = b.shape.length === 2 ? afterWeightGradient(d, b, right) : [d, b];
    return [ops.reshape(matmulLeft(late, a, weight), rawA.shape, [rawA]), right];
  },

  Gemm: ({ dy, inputs, needs, node }) => {
    const [a, b, c] = inputs as [Value, Value, Value | undefined];
    const [transA, transB] = [flag(node.attrs, "transA"), flag(node.attrs, "transB")];
    const alpha = real(node.attrs, "alpha");
    const beta = real(node.attrs, "beta");
    const bias = () => (c ? unbroadcast(beta === 1 ? dy : ops.mul(dy, beta), c.shape, c) : undefined);
    const right = () =>
      transB
        ? ops.gemm(dy, a, undefined, { transA: true, transB: transA, alpha })
        : ops.gemm(a, dy, undefined, { transA: !transA, alpha });
    const dB = needs(1) ? right() : undefined;
    const left = () => {
      const [late, weight] = afterWeightGradient(dy, b, dB);
      return transA
        ? ops.gemm(weight, late, undefined, { transA: transB, transB: true, alpha })
        : ops.gemm(late, weight, undefined, { transB: !transB, alpha });
    };
    return [needs(0) ? left() : undefined, dB, needs(2) ? bias() : undefined];
  },
};
