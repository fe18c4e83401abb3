import { expect, test } from "vitest";
import { evaluate } from "../../runtime/index.js";
import { byteLengthOf, elementCount, type Tensor, tensor } from "../../tensor/index.js";
import {
  constantsOf,
  type Graph,
  loadOnnx,
  nodesOf,
  type QuantizationKind,
  quantizeGraph,
} from "../index.js";

const path = new URL("../../../fixtures/onnx/gpt2.onnx", import.meta.url).pathname;

const bytesOf = (graph: Graph) =>
  constantsOf(graph).reduce(
    (sum, { dtype, shape }) => sum + byteLengthOf(dtype, elementCount(shape as number[])),
    0,
  );

const feeds = (graph: Graph): Record<string, Tensor> =>
  Object.fromEntries(
    graph.inputs.map(({ name, dtype }) => [
      String(name),
      tensor(dtype, [1, 6], name === "attention_mask" ? [1, 1, 1, 1, 1, 1] : [3, 17, 40, 5, 61, 22]),
    ]),
  );

test.each<[QuantizationKind, string, number]>([
  ["int8", "DequantizeLinear", 0.02],
  ["int8-dynamic", "MatMulInteger", 0.08],
  ["int4", "MatMulNBits", 0.4],
  ["nf4", "MatMulBnb4", 0.4],
])("a file in %s: near the floats, and smaller", async (kind, op, most) => {
  const { graph } = await loadOnnx(path);
  const small = await quantizeGraph(graph, kind);
  expect(nodesOf(small).filter((node) => node.op === op).length).toBeGreaterThan(5);
  expect(bytesOf(small)).toBeLessThan(0.75 * bytesOf(graph));
  const [before, after] = [await evaluate(graph, feeds(graph)), await evaluate(small, feeds(graph))];
  const [name] = Object.keys(before) as [string];
  const [x, y] = [before[name]?.data as Float32Array, after[name]?.data as Float32Array];
  const apart = Math.hypot(...x.map((value, at) => value - (y[at] as number))) / Math.hypot(...x);
  expect(apart).toBeLessThan(most);
  expect(apart).toBeGreaterThan(0);
});

test("what is excluded stays, and a graph without products is refused", async () => {
  const { graph } = await loadOnnx(path);
  await expect(quantizeGraph(graph, { kind: "int8", exclude: () => true })).rejects.toMatchObject({
    code: "target-not-found",
  });
});
