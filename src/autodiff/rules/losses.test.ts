import { describe, test } from "vitest";
import { type Attrs, makeNode, op, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const lower = ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"];
const labels = (shape: number[], values: number[], dtype: "int64" | "int32" = "int64"): Operand => ({
  shape,
  values,
  dtype,
});
const weights: Operand = { shape: [3], range: [0.3, 1.5] };

describe.each(["none", "sum", "mean"])("reduction %s", (reduction) => {
  const attrs: Attrs = { reduction: { s: reduction } };
  describe.each(lower)("%s", (name) => {
    const build =
      (extra: Attrs) =>
      (...values: Value[]) =>
        op(name, values, { ...attrs, ...extra });
    test("plain, weighted, ignored labels, further axes", async () => {
      const scores: Operand = { shape: [4, 3] };
      await check({ operands: [scores, labels([4], [0, 2, 1, 2])], build: build({}), lower });
      await check({
        operands: [scores, labels([4], [0, 2, 1, 2], "int32"), weights],
        build: build({}),
        lower,
      });
      const ignored = build({ ignore_index: { i: -100 } });
      await check({ operands: [scores, labels([4], [0, -100, 1, 2])], build: ignored, lower });
      await check({ operands: [scores, labels([4], [0, -100, 1, 2]), weights], build: ignored, lower });
      await check({
        operands: [{ shape: [2, 3, 2] }, labels([2, 2], [0, 2, 1, 2]), weights],
        build: build({}),
        lower,
      });
    });
  });
  test("log-probabilities as the second output, symbolic batch", async () => {
    const build = (...values: Value[]) =>
      makeNode("SoftmaxCrossEntropyLoss", values, attrs, { outputs: 2 }).outputs;
    const scores: Operand = { shape: [4, 3], symbolic: ["n", 3] };
    await check({ operands: [scores, { ...labels([4], [0, 2, 1, 2]), symbolic: ["n"] }], build, lower });
  });
});
