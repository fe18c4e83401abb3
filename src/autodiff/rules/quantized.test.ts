import { expect, test } from "vitest";
import { type Attrs, constant, input, makeGraph, nodesOf, op, ops, type Value } from "../../graph/index.js";
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
