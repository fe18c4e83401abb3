import { expect, test } from "vitest";
import { evaluate } from "../../runtime/index.js";
import { byteLengthOf, elementCount, maxAbsDiff, type Tensor, tensor } from "../../tensor/index.js";
import {
  constant,
  constantsOf,
  type Graph,
  input,
  loadOnnx,
  makeGraph,
  nodesOf,
  ops,
  quantizeGraph,
  toFloat16,
} from "../index.js";

const load = async (name: string) =>
  (await loadOnnx(new URL(`../../../fixtures/onnx/${name}.onnx`, import.meta.url).pathname)).graph;

const bytesOf = (graph: Graph) =>
  constantsOf(graph).reduce(
    (sum, { dtype, shape }) => sum + byteLengthOf(dtype, elementCount(shape as number[])),
    0,
  );

/** Inputs of a fixture: ids, ones for masks, waves for floats. */
const feeds = (graph: Graph): Record<string, Tensor> =>
  Object.fromEntries(
    graph.inputs.map(({ name, dtype, shape }) => {
      const sizes = shape.map((dim, at) => (typeof dim === "number" ? dim : at === 0 ? 1 : 6));
      const count = elementCount(sizes);
      const value = (at: number) =>
        /mask/.test(String(name)) ? 1 : dtype === "float32" ? Math.sin(at) : (7 * at + 3) % 50;
      return [
        String(name),
        tensor(
          dtype,
          sizes,
          Array.from({ length: count }, (_, at) => value(at)),
        ),
      ];
    }),
  );

test.each(["gpt2", "convnet", "deberta"])(
  "%s in half precision: near the floats, half the size",
  async (name) => {
    const graph = await load(name);
    const half = await toFloat16(graph);
    expect(bytesOf(half)).toBeLessThan(0.62 * bytesOf(graph));
    expect([...half.outputs.values()].map(({ dtype }) => dtype)).toEqual(
      [...graph.outputs.values()].map(({ dtype }) => dtype),
    );
    for (const node of nodesOf(half).filter(({ op }) => /Softmax|LayerNormalization/.test(op)))
      expect(node.inputs[0]?.dtype, node.op).toBe("float32");
    const [before, after] = [await evaluate(graph, feeds(graph)), await evaluate(half, feeds(graph))];
    for (const [key, value] of Object.entries(before)) {
      const largest = (value.data as Float32Array).reduce((most, item) => Math.max(most, Math.abs(item)), 0);
      expect(maxAbsDiff(value, after[key] as Tensor), key).toBeLessThan(0.02 * largest);
    }
  },
);

test("4 bits with halves", async () => {
  const graph = await load("gpt2");
  const four = await quantizeGraph(graph, { kind: "int4", blockSize: 16 });
  const both = await toFloat16(four);
  expect(bytesOf(both)).toBeLessThan(0.75 * bytesOf(four));
  const [x, y] = [await evaluate(four, feeds(graph)), await evaluate(both, feeds(graph))];
  for (const [key, value] of Object.entries(x)) {
    const largest = (value.data as Float32Array).reduce((most, item) => Math.max(most, Math.abs(item)), 0);
    expect(maxAbsDiff(value, y[key] as Tensor), key).toBeLessThan(0.02 * largest);
  }
});

test("numbers that halves cannot hold are cut, infinities stay", async () => {
  const x = input("x", "float32", [3]);
  const mask = constant(tensor("float32", [3], [-3.4e38, Number.NEGATIVE_INFINITY, 1]), "mask");
  const half = await toFloat16(makeGraph("g", [x], [["y", ops.add(x, mask)]]));
  const { y } = await evaluate(half, { x: tensor("float32", [3], [0, 0, 1]) });
  expect(Array.from((y as Tensor).data as Float32Array)).toEqual([-65504, Number.NEGATIVE_INFINITY, 2]);
});
