import { expect, test } from "vitest";
import { evaluate } from "../../runtime/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../../tensor/index.js";
import { constant, constantsOf, input, makeGraph, ops } from "../index.js";
import { halfWeights } from "./half-weights.js";

const noise = (count: number, scale: number) =>
  Float32Array.from({ length: count }, (_, at) => scale * Math.sin(at * 12.9898 + 1));

test("weights take half the bytes and the product is theirs, rounded", async () => {
  const x = input("x", "float32", [3, 64]);
  const large = constant(tensor("float32", [64, 32], noise(2048, 1)), "large");
  const small = constant(tensor("float32", [32], noise(32, 1)), "small");
  const huge = constant(tensor("float32", [32, 64], noise(2048, 1e6)), "huge");
  const y = ops.add(ops.matmul(x, large), small);
  const graph = makeGraph(
    "g",
    [x],
    [
      ["y", y],
      ["z", ops.matmul(y, huge)],
    ],
  );
  const halved = await halfWeights(graph);
  const dtypes = Object.fromEntries(constantsOf(halved).map(({ name, dtype }) => [name, dtype]));
  expect(dtypes).toEqual({ large: "float16", small: "float32", huge: "float32" });
  const feeds = { x: tensor("float32", [3, 64], noise(192, 1)) };
  const [before, after] = [await evaluate(graph, feeds), await evaluate(halved, feeds)];
  const gap = maxAbsDiff(before.y as Tensor, after.y as Tensor);
  expect(gap).toBeGreaterThan(0);
  expect(gap).toBeLessThan(0.02);
});
