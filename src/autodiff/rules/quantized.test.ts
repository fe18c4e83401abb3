import { expect, test } from "vitest";
import {
  type Attrs,
  constant,
  dequantizeMatrix,
  input,
  makeGraph,
  nodesOf,
  op,
  ops,
  quantizedProduct,
  quantizedWeight,
  quantizeMatrix,
  type Value,
} from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { type Dtype, tensor } from "../../tensor/index.js";
import { gradients } from "../gradients.js";
import { compareDecomposition } from "../testing/compare-decomposition.js";
import {
  type Compile,
  checkGradients,
  drawValues,
  generator,
  type Operand,
} from "../testing/finite-differences.js";

const compile: Compile = (graph) => createSession(graph, { threads: 1, optimization: "basic" });
const MS = { domain: "com.microsoft" };
const random = generator(3);
const held = (dtype: Dtype, shape: number[], range: [number, number]): Value =>
  constant(tensor(dtype, shape, drawValues(random, shape, range, true)));
const x = (depth: number): Operand => ({ shape: [2, 3, depth] });

test.each([
  ["4 bits", 4, 32, 16, false, false],
  ["4 bits, zero points, bias", 4, 64, 16, true, true],
  ["4 bits, a partial last block", 4, 40, 16, false, false],
  ["8 bits", 8, 32, 16, false, true],
  ["8 bits, zero points", 8, 48, 16, true, false],
  ["4 bits, zero points that do not fill their bytes", 4, 48, 16, true, false],
  ["2 bits", 2, 32, 16, false, false],
  ["2 bits, zero points", 2, 64, 16, true, true],
])("MatMulNBits, %s", async (_, bits, depth, block, zeros, bias) => {
  const [columns, blocks] = [4, Math.ceil(depth / block)];
  const weights = held("uint8", [columns, blocks, (block * bits) / 8], [0, 255]);
  const scales = held("float32", [columns * blocks], [1, 2]);
  const zero = zeros ? held("uint8", [columns * Math.ceil((blocks * bits) / 8)], [0, 255]) : undefined;
  const attrs: Attrs = { bits: { i: bits }, N: { i: columns }, K: { i: depth }, block_size: { i: block } };
  const build = (...values: Value[]) =>
    op(
      "MatMulNBits",
      [values[0], weights, scales, zero, undefined, values[1]].slice(0, bias ? 6 : zero ? 4 : 3),
      attrs,
      {
        domain: "com.microsoft",
      },
    );
  const operands = [x(depth), ...(bias ? [{ shape: [columns] }] : [])];
  const scale = 2 ** bits * depth;
  expect(
    await compareDecomposition(compile, { operands, build, lower: ["com.microsoft.MatMulNBits"] }),
  ).toBeLessThan(1e-5 * scale);
  await checkGradients(compile, { operands, build, precision: "exact32" });
});

test.each([0, 1])("MatMulBnb4, quant_type %i", async (kind) => {
  const [columns, depth, block] = [4, 32, 16];
  const weights = held("uint8", [(columns * depth) / 2], [0, 255]);
  const maxima = held("float32", [(columns * depth) / block], [1, 3]);
  const attrs: Attrs = {
    N: { i: columns },
    K: { i: depth },
    block_size: { i: block },
    quant_type: { i: kind },
  };
  const build = (value: Value | undefined) =>
    op("MatMulBnb4", [value, weights, maxima], attrs, { domain: "com.microsoft" });
  expect(
    await compareDecomposition(compile, { operands: [x(depth)], build, lower: ["com.microsoft.MatMulBnb4"] }),
  ).toBeLessThan(1e-4);
  await checkGradients(compile, { operands: [x(depth)], build, precision: "exact32" });
});

test.each([
  [2, 3, 16, 3],
  [3, 2, 8, 4],
  [4, 4, 16, 100],
  [8, 8, 32, 1],
  [3, 8, 8, 5],
] as const)("MatMulNormalFloat, %i bits, scales of %i bits", async (bits, scaleBits, block, superBlock) => {
  const [columns, depth] = [5, 32];
  const blocks = (columns * depth) / block;
  const layout = { bits, scaleBits, blockSize: block, superBlock, scaleDtype: "float16" } as const;
  const weight = Float32Array.from({ length: columns * depth }, (_, at) => Math.sin(3 * at) * (1 + (at % 7)));
  const matrix = quantizeMatrix(weight, columns, depth, { kind: "nf", ...layout });
  const parts = Object.fromEntries(
    Object.entries(matrix.parts).map(([name, part]) => [name, constant(part)] as const),
  );
  const build = (value: Value | undefined) => quantizedProduct(value as Value, { ...matrix, parts });
  expect(parts.scaleScales?.shape).toEqual([Math.ceil(blocks / superBlock)]);
  await checkGradients(compile, { operands: [x(depth)], build, precision: "exact32" });
  const graph = makeGraph("weight", [], [["weight", quantizedWeight({ ...matrix, parts })]]);
  const found = (await (await compile(graph)).run({})).weight;
  expect(found?.data).toEqual(dequantizeMatrix(matrix));
});

test("the quantised bytes are not copied, and the scales have no gradient", () => {
  const weights = held("uint8", [4, 2, 8], [0, 255]);
  const attrs: Attrs = { bits: { i: 4 }, N: { i: 4 }, K: { i: 32 }, block_size: { i: 16 } };
  const [value, scales] = [input("x", "float32", [3, 32]), input("s", "float32", [8])];
  const loss = ops.reduceSum(
    op("MatMulNBits", [value, weights, scales], attrs, { domain: "com.microsoft" }),
    undefined,
    false,
  );
  const [dx] = gradients(loss, [value]) as [Value];
  const node = nodesOf(makeGraph("g", [value, scales], [["dx", dx]])).find(
    (each) => each.op === "DequantizeLinear",
  );
  const [codes, original] = [node?.inputs[0]?.source, weights.source];
  expect(codes?.kind === "constant" && original.kind === "constant" && codes.data).toMatchObject({
    dtype: "uint4",
    data: original.kind === "constant" && "data" in original.data ? original.data.data : undefined,
  });
  expect(() => gradients(loss, [scales])).toThrow(/no gradient for its scales/);
});

test("MatMulNBits with zero points as floats", async () => {
  const [weights, scales] = [held("uint8", [4, 2, 8], [0, 255]), held("float32", [8], [1, 2])];
  const zero = held("float32", [8], [3, 9]);
  const attrs: Attrs = { bits: { i: 4 }, N: { i: 4 }, K: { i: 32 }, block_size: { i: 16 } };
  const build = (value: Value | undefined) => op("MatMulNBits", [value, weights, scales, zero], attrs, MS);
  const item = { operands: [x(32)], build, lower: ["com.microsoft.MatMulNBits"] };
  expect(await compareDecomposition(compile, item)).toBeLessThan(1e-3);
  await checkGradients(compile, { operands: [x(32)], build, precision: "exact32" });
});

test.each<[string, Dtype, number[], Attrs, Dtype | undefined, number[]]>([
  ["bytes of two 4-bit codes", "uint8", [5, 16], {}, undefined, []],
  ["bytes of two 4-bit codes, zero points", "uint8", [5, 16], {}, "uint8", [5, 1]],
  ["uint4", "uint4", [5, 32], {}, undefined, []],
  ["int4, zero points", "int4", [5, 32], {}, "int4", [5, 2]],
  ["8 bits", "uint8", [5, 32], { bits: { i: 8 } }, undefined, []],
])("GatherBlockQuantized: %s", async (_, dtype, shape, attrs, zeroDtype, zeroShape) => {
  const range: [number, number] = dtype === "int4" ? [-8, 7] : dtype === "uint4" ? [0, 15] : [0, 255];
  const table = held(dtype, shape, range);
  const scales = held("float32", [5, 2], [1, 3]);
  const zero = zeroDtype && held(zeroDtype, zeroShape, range);
  const ids: Operand = { shape: [2, 3], dtype: "int64", values: [0, 4, 2, 2, 1, 3] };
  const build = (index: Value | undefined) =>
    op(
      "GatherBlockQuantized",
      [table, index, scales, zero],
      { block_size: { i: 16 }, quantize_axis: { i: 1 }, ...attrs },
      MS,
    );
  const lower = ["com.microsoft.GatherBlockQuantized"];
  expect(await compareDecomposition(compile, { operands: [ids], build, lower })).toBe(0);
});

test("weights that the graph dequantises are dequantised again for the gradient", () => {
  const value = input("x", "float32", [3, 8]);
  const weight = op("DequantizeLinear", [held("int8", [8, 4], [-9, 9]), held("float32", [4], [1, 2])], {
    axis: { i: 1 },
  });
  const turned = op("DequantizeLinear", [held("int8", [5, 4], [-9, 9]), ops.scalar(0.5)]);
  const y = ops.matmul(ops.matmul(value, weight), ops.transpose(turned, [1, 0]));
  const [dx] = gradients(ops.reduceSum(y, undefined, false), [value]) as [Value];
  const made = nodesOf(makeGraph("g", [value], [["dx", dx]])).filter(
    (node) => node.op === "DequantizeLinear",
  );
  expect(made.length).toBe(2);
  for (const node of made) expect(node.inputs[1]?.source.kind).toBe("node");
});

test("codes that go through a table are unpacked when the gradient arrives, not when a session folds constants", () => {
  const [codes, maxima] = [held("uint8", [64], [0, 255]), held("float32", [8], [1, 2])];
  const attrs: Attrs = { N: { i: 4 }, K: { i: 32 }, block_size: { i: 16 }, quant_type: { i: 1 } };
  const value = input("x", "float32", [3, 32]);
  const loss = ops.reduceSum(op("MatMulBnb4", [value, codes, maxima], attrs, MS), undefined, false);
  const [dx] = gradients(loss, [value]) as [Value];
  const casts = nodesOf(makeGraph("g", [value], [["dx", dx]])).filter(
    ({ op: name, inputs }) => name === "Cast" && inputs[0]?.dtype === "uint8",
  );
  expect(casts.length).toBe(1);
  for (const node of casts) expect(node.inputs[0]?.source.kind).toBe("node");
});
