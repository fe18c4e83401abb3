import { makeNode, op } from "../create.js";
import { dimDiv, dimMul, normalAxis } from "../dims.js";
import { floatAttr, intAttr, stringAttr } from "../infer/types.js";
import { numbersOf } from "../ints.js";
import * as ops from "../ops/index.js";
import type { Dim, Value } from "../types.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** MatMul with optional transposes (of the last two axes, or batch axis against row axis) and a factor. */
const fusedMatMul: Decomposition = ([a, b], node) => {
  const flag = (name: string) => intAttr(node.attrs, name, 0) !== 0;
  const operand = (x: Value, side: "A" | "B") => {
    const rank = x.shape.length;
    // transBatch: the first axis is moved to be the second last one.
    const moved = flag(`transBatch${side}`) ? ops.transpose(x, [...range(1, rank - 1), 0, rank - 1]) : x;
    return flag(`trans${side}`) ? ops.transposeLast(moved) : moved;
  };
  const product = ops.matmul(operand(a as Value, "A"), operand(b as Value, "B"));
  const alpha = floatAttr(node.attrs, "alpha", 1);
  return [alpha === 1 ? product : ops.mul(product, alpha)];
};

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

const withBias = (x: Value, bias: Value | undefined) => (bias ? ops.add(x, bias) : x);

/** Outputs: y, (mean, 1/std: not reproduced), x + skip + bias. */
const skipNorm =
  (
    normalise: (sum: Value, gamma: Value, beta: Value | undefined, epsilon: number) => Value,
    betas: number,
  ): Decomposition =>
  (inputs, node) => {
    const [x, skip, gamma] = inputs as [Value, Value, Value];
    const [beta, bias] = betas === 1 ? [inputs[3], inputs[4]] : [undefined, inputs[3]];
    const sum = withBias(ops.add(x, skip), bias);
    return [normalise(sum, gamma, beta, floatAttr(node.attrs, "epsilon", 1e-12)), undefined, undefined, sum];
  };

/** Moves blocks between channels and space, as one Reshape-Transpose-Reshape. */
const depthToSpace: Decomposition = ([value], node) => {
  const x = value as Value;
  const block = intAttr(node.attrs, "blocksize", 1);
  const [n, c, h, w] = x.shape as [Dim, Dim, Dim, Dim];
  const inner = dimDiv(c, block * block);
  const columnFirst = stringAttr(node.attrs, "mode", "DCR") === "CRD";
  const cut = ops.reshape(x, columnFirst ? [n, inner, block, block, h, w] : [n, block, block, inner, h, w]);
  const moved = ops.transpose(cut, columnFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2]);
  return [ops.reshape(moved, [n, inner, dimMul(h, block), dimMul(w, block)], [x])];
};

const spaceToDepth: Decomposition = ([value], node) => {
  const x = value as Value;
  const block = intAttr(node.attrs, "blocksize", 1);
  const [n, c, h, w] = x.shape as [Dim, Dim, Dim, Dim];
  const [rows, columns] = [dimDiv(h, block), dimDiv(w, block)];
  const moved = ops.transpose(ops.reshape(x, [n, c, rows, block, columns, block]), [0, 3, 5, 1, 2, 4]);
  return [ops.reshape(moved, [n, dimMul(c, block * block), rows, columns], [x])];
};

/** The rows whose condition is true; without an axis, of the flattened data. */
const compress: Decomposition = ([x, condition], node) => {
  const known = numbersOf(condition);
  const rows = known
    ? ops.ints(known.flatMap((keep, row) => (keep === 0 ? [] : [row])))
    : ops.squeeze(op("NonZero", [condition]), 0);
  const data = node.attrs.axis ? (x as Value) : ops.reshape(x as Value, [-1]);
  const axis = normalAxis(intAttr(node.attrs, "axis", 0), data.shape.length, "Compress");
  return [ops.gather(data, rows, axis)];
};

export const fused: DecompositionTable = {
  "com.microsoft.FusedMatMul": fusedMatMul,
  "com.microsoft.TransposeMatMul": fusedMatMul,
  "com.microsoft.Gelu": ([x]) => [ops.gelu(x as Value)],
  "com.microsoft.BiasGelu": ([x, bias]) => [ops.gelu(withBias(x as Value, bias))],
  "com.microsoft.FastGelu": ([x, bias]) => [ops.gelu(withBias(x as Value, bias), "tanh")],
  "com.microsoft.QuickGelu": ([x], node) => [
    ops.mul(x as Value, ops.sigmoid(ops.mul(x as Value, floatAttr(node.attrs, "alpha", 1.702)))),
  ],
  "com.microsoft.SkipLayerNormalization": skipNorm(
    (sum, gamma, beta, epsilon) => ops.layerNorm(sum, gamma, beta, epsilon),
    1,
  ),
  "com.microsoft.SkipSimplifiedLayerNormalization": skipNorm(
    (sum, gamma, _, epsilon) =>
      makeNode("SimplifiedLayerNormalization", [sum, gamma], { axis: { i: -1 }, epsilon: { f: epsilon } })
        .outputs[0] as Value,
    0,
  ),
  Swish: ([x], node) => {
    const alpha = floatAttr(node.attrs, "alpha", 1);
    return [ops.mul(x as Value, ops.sigmoid(alpha === 1 ? (x as Value) : ops.mul(x as Value, alpha)))];
  },
  "com.microsoft.BiasSplitGelu": ([x, bias]) => {
    const sum = ops.add(x as Value, bias as Value);
    const half = Number(sum.shape.at(-1)) / 2;
    return [ops.mul(ops.slice(sum, -1, 0, half), ops.gelu(ops.slice(sum, -1, half)))];
  },
  "com.microsoft.BiasAdd": ([x, bias, skip]) => [ops.add(ops.add(x as Value, bias as Value), skip as Value)],
  Compress: compress,
  DepthToSpace: depthToSpace,
  SpaceToDepth: spaceToDepth,
};
