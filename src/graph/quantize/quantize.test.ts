import { expect, test } from "vitest";
import { evaluate } from "../../runtime/index.js";
import { maxAbsDiff, readTensor, type Tensor, tensor } from "../../tensor/index.js";
import { decompose, input, makeGraph, ops, type Value } from "../index.js";
import {
  dequantizeMatrix,
  type QuantizationOptions,
  type QuantizedMatrix,
  quantizationOf,
  quantizedProduct,
  quantizeMatrices,
} from "./index.js";

const numbers = (length: number, scale: number) =>
  Float32Array.from({ length }, (_, at) => scale * Math.sin(1.7 * at + 0.3 * at * at));

async function inMemory({ parts, ...rest }: QuantizedMatrix<Value>): Promise<QuantizedMatrix<Tensor>> {
  const read = await Promise.all(
    Object.entries(parts).map(async ([name, { source }]) => {
      if (source.kind !== "constant") throw new Error(`${name} is not a constant`);
      return [name, await readTensor(source.data)] as const;
    }),
  );
  return { ...rest, parts: Object.fromEntries(read) };
}

const cases: [string, QuantizationOptions, number, number][] = [
  ["int8", { kind: "int8" }, 6, 40],
  ["int4", { kind: "int4" }, 6, 64],
  ["int4, a partial last block", { kind: "int4" }, 6, 40],
  ["int4 with zero points", { kind: "int4", symmetric: false, blockSize: 16 }, 5, 48],
  ["nf4", { kind: "nf4", doubleQuant: false }, 8, 48],
  ["nf4, scales in 8 bits", { kind: "nf4" }, 64, 320],
];

test.each(cases)(
  "%s: ONNX Runtime's product is that of the dequantised numbers",
  async (_, options, rows, columns) => {
    const settings = quantizationOf(options);
    const weight = numbers(rows * columns, 0.1);
    const load = async () => weight;
    const [matrix] = await quantizeMatrices([{ name: "w", rows, columns, load }], settings);
    if (!matrix) throw new Error("nothing was quantised");
    const restored = dequantizeMatrix(await inMemory(matrix));
    const error =
      Math.hypot(...restored.map((value, at) => value - (weight[at] as number))) / Math.hypot(...weight);
    expect(error).toBeLessThan(settings.kind === "int8" ? 0.01 : 0.15);
    expect(error).toBeGreaterThan(0);
    const x = input("x", "float32", [2, 3, columns]);
    const bias = input("bias", "float32", [rows]);
    const product = quantizedProduct(x, matrix, bias);
    const lowered = decompose(makeGraph("g", [x, bias], [["lowered", product]]));
    const w = input("w", "float32", [rows, columns]);
    const expected = ops.add(ops.matmul(x, ops.transpose(w, [1, 0])), bias);
    const graph = makeGraph(
      "g",
      [x, bias, w],
      [["product", product], ...lowered.outputs, ["expected", expected]],
    );
    const results = await evaluate(graph, {
      x: tensor("float32", [2, 3, columns], numbers(6 * columns, 1)),
      bias: tensor("float32", [rows], numbers(rows, 1)),
      w: tensor("float32", [rows, columns], restored),
    });
    expect(maxAbsDiff(results.product as Tensor, results.expected as Tensor)).toBeLessThan(2e-6 * columns);
    expect(maxAbsDiff(results.lowered as Tensor, results.expected as Tensor)).toBeLessThan(2e-6 * columns);
  },
);

test("settings are checked", () => {
  expect(quantizationOf("nf4")).toEqual({ kind: "nf4", blockSize: 64, doubleQuant: true });
  expect(() => quantizationOf({ kind: "int4", blockSize: 48 })).toThrow(/block size of 48/);
  expect(() => quantizationOf({ kind: "int8", blockSize: 32 })).toThrow(/int8 has no option 'blockSize'/);
  expect(() => quantizationOf("int3" as "int4")).toThrow(/'int3' is unknown/);
});
