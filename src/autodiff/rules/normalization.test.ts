import { describe, expect, test } from "vitest";
import { type Attrs, makeNode, op, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const of = (...shapes: number[][]): Operand[] => shapes.map((shape) => ({ shape }));
const open: Operand = { shape: [2, 3, 4], symbolic: ["batch", "time", 4] };

describe("LayerNormalization", () => {
  const norm =
    (attrs: Attrs, outputs: number) =>
    (...values: Value[]) =>
      makeNode("LayerNormalization", values, attrs, { outputs }).outputs[0] as Value;
  test.each([1, 3])("with %i outputs", async (outputs) => {
    await check({ operands: of([2, 3, 4], [4], [4]), build: norm({}, outputs) });
    await check({ operands: of([2, 3, 4], [4]), build: norm({ epsilon: { f: 0.01 } }, outputs) });
    await check({ operands: of([2, 3, 4], [3, 4], [3, 4]), build: norm({ axis: { i: 1 } }, outputs) });
    await check({ operands: of([2, 3, 4], [3, 4]), build: norm({ axis: { i: -2 } }, outputs) });
    await check({ operands: [open, ...of([4], [4])], build: norm({}, outputs) });
  });
  test("through the statistics outputs, which are single precision", async () => {
    const build = (...values: Value[]) => makeNode("LayerNormalization", values, {}, { outputs: 3 }).outputs;
    await check({ operands: of([2, 4], [4], [4]), build, precision: "float32" });
    await check({
      operands: of([2, 4], [4]),
      build: (...values) => build(...values)[2] as Value,
      precision: "float32",
    });
  });
  test("in single precision, where its own statistics are used", async () => {
    const operands = of([2, 3, 4], [4], [4]);
    const single = await check({ operands, build: norm({}, 3), precision: "float32" });
    const double = await check({ operands, build: norm({}, 1) });
    single.gradients.forEach((gradient, at) => {
      const expected = Array.from(double.gradients[at]?.data ?? [], Number);
      expect(Array.from(gradient.data, Number)).toEqual(expected.map((value) => expect.closeTo(value, 4)));
    });
  });
});

test.each([
  [{}, [4]],
  [{ axis: { i: -1 }, epsilon: { f: 0.01 } }, [4]],
] as [Attrs, number[]][])("SimplifiedLayerNormalization %j", async (attrs, gamma) => {
  const build = (...values: Value[]) => op("SimplifiedLayerNormalization", values, attrs);
  await check({ operands: of([2, 3, 4], gamma), build });
  await check({ operands: [open, ...of(gamma)], build });
});

test("RMSNormalization over one and over two axes", async () => {
  const build =
    (axis: number) =>
    (...values: Value[]) =>
      op("RMSNormalization", values, { axis: { i: axis } });
  await check({ operands: of([2, 3, 4], [4]), build: build(-1) });
  await check({ operands: of([2, 3, 4], [3, 4]), build: build(1) });
});

test("SimplifiedLayerNormalization through its statistics", async () => {
  const build = (...values: Value[]) =>
    makeNode("SimplifiedLayerNormalization", values, {}, { outputs: 2 }).outputs;
  await check({ operands: of([2, 4], [4]), build, precision: "float32" });
});

describe("skip variants", () => {
  const epsilon = { epsilon: { f: 1e-5 } };
  const skip =
    (name: string, pick: readonly number[]) =>
    (...values: Value[]) => {
      const { outputs } = makeNode(name, values, epsilon, { domain: "com.microsoft", outputs: 4 });
      return pick.map((at) => outputs[at] as Value);
    };
  test("SkipLayerNormalization and the sum it also gives", async () => {
    const lower = ["com.microsoft.SkipLayerNormalization"];
    await check({
      operands: of([2, 3, 4], [2, 3, 4], [4], [4], [4]),
      build: skip("SkipLayerNormalization", [0, 3]),
      lower,
    });
    await check({
      operands: of([2, 3, 4], [2, 3, 4], [4]),
      build: skip("SkipLayerNormalization", [0]),
      lower,
    });
  });
  test("SkipSimplifiedLayerNormalization", async () => {
    const lower = ["com.microsoft.SkipSimplifiedLayerNormalization"];
    await check({
      operands: of([2, 3, 4], [2, 3, 4], [4], [4]),
      build: skip("SkipSimplifiedLayerNormalization", [0, 3]),
      lower,
    });
  });
  test("the statistics have no gradient, and say so", async () => {
    const operands = of([2, 3, 4], [2, 3, 4], [4]);
    await expect(
      check({ operands, build: skip("SkipLayerNormalization", [1]), precision: "float32" }),
    ).rejects.toThrow(/output 1/);
  });
});

describe("channel norms", () => {
  test.each([[[2, 3, 4]], [[2, 3, 2, 2]]])("InstanceNormalization %j", async (shape) => {
    const build = (...values: Value[]) => op("InstanceNormalization", values, { epsilon: { f: 1e-3 } });
    await check({ operands: of(shape, [3], [3]), build, lower: ["InstanceNormalization"] });
  });
  test("GroupNormalization, per channel, and one vector as scale and bias", async () => {
    const build = (...values: Value[]) => op("GroupNormalization", values, { num_groups: { i: 2 } });
    await check({ operands: of([2, 4, 2, 2], [4], [4]), build, lower: ["GroupNormalization"] });
    const twice = (x: Value, s: Value) => build(x, s, s);
    await check({
      operands: of([2, 4, 3], [4]),
      build: twice as GradientCase["build"],
      lower: ["GroupNormalization"],
    });
  });
  test("GroupNormalization with a scale per group, as before opset 21", async () => {
    const build = (...values: Value[]) => op("GroupNormalization", values, { num_groups: { i: 2 } });
    await check({ operands: of([2, 4, 2, 2], [2], [2]), build, lower: ["GroupNormalization"] });
  });
  test("BatchNormalization, inference", async () => {
    const operands = [...of([2, 3, 2, 2], [3], [3], [3]), { shape: [3], range: [0.5, 1.5] as const }];
    const build = (...values: Value[]) => op("BatchNormalization", values, { epsilon: { f: 1e-3 } });
    await check({ operands, build, lower: ["BatchNormalization"] });
    await check({
      operands: [{ shape: [4, 3], symbolic: ["n", 3] }, ...operands.slice(1)],
      build,
      lower: ["BatchNormalization"],
    });
  });
  test("BatchNormalization, training, with the running statistics", async () => {
    const operands = [...of([2, 3, 4], [3], [3], [3]), { shape: [3], range: [0.5, 1.5] as const }];
    const attrs: Attrs = { training_mode: { i: 1 }, momentum: { f: 0.75 } };
    const build = (...values: Value[]) =>
      makeNode("BatchNormalization", values, attrs, { outputs: 3 }).outputs;
    await check({ operands, build, lower: ["BatchNormalization"] });
  });
});

test.each([
  [2, -1],
  [1, 1],
  [2, 0],
])("LpNormalization p=%i axis=%i", async (p, axis) => {
  const build = (x: Value | undefined) => op("LpNormalization", [x], { p: { i: p }, axis: { i: axis } });
  await check({
    operands: of([2, 3, 4]),
    build,
    ...(p === 2 ? { precision: "float32" } : { lower: ["LpNormalization"] }),
  });
});

test("MeanVarianceNormalization", async () => {
  await check({
    operands: of([2, 3, 2, 2]),
    build: (x) => op("MeanVarianceNormalization", [x]),
    lower: ["MeanVarianceNormalization"],
  });
});
