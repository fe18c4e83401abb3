import { describe, expect, test } from "vitest";
import { type Attrs, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const positive: Operand = { shape: [2, 3, 2], range: [0.3, 1.7] };
const symbolic: Operand = { ...positive, symbolic: ["batch", "time", 2] };
/** ONNX Runtime's CPU side has no double kernel for these. */
const SINGLE = new Set(["ReduceL1", "ReduceL2", "ReduceLogSum"]);

const names = "Sum Mean Max Min Prod L1 L2 SumSquare LogSum LogSumExp"
  .split(" ")
  .map((name) => `Reduce${name}`);
const variants: [string, number[] | undefined, Attrs][] = [
  ["one axis", [1], {}],
  ["negative axis", [-1], {}],
  ["two axes, dropped", [0, -1], { keepdims: { i: 0 } }],
  ["all axes", undefined, {}],
  ["all axes, dropped", undefined, { keepdims: { i: 0 } }],
  ["no axes, no-op", [], { noop_with_empty_axes: { i: 1 } }],
];

describe.each(names)("%s", (name) => {
  test.each(variants)("%s", async (_, axes, attrs) => {
    const build = (x: Value | undefined) => op(name, axes ? [x, ops.ints(axes)] : [x], attrs);
    const precision = SINGLE.has(name) ? "float32" : "float64";
    await check({ operands: [positive], build, precision });
    await check({ operands: [symbolic], build, precision });
  });
});

test("axes as an attribute, as before opset 18", async () => {
  const report = await check({
    operands: [positive],
    build: (x) => op("ReduceSum", [x, ops.ints([1])]),
  });
  expect(report.first).toBeLessThan(1e-6);
});

test("ReduceProd with zeros", async () => {
  const operands = [{ shape: [3, 3], values: [0, 2, 3, 0, 0, 4, 1, 2, 3] }];
  await check({ operands, build: (x) => ops.reduceProd(x as Value, [1]), second: false });
});

test("ReduceL2 of zeros has a zero gradient", async () => {
  const operands = [{ shape: [2, 2], values: [0, 0, 3, 4] }];
  const report = await check({
    operands,
    build: (x) => ops.reduceL2(x as Value, [1]),
    precision: "float32",
    second: false,
  });
  expect(Array.from(report.gradients[0]?.data ?? [], Number).every(Number.isFinite)).toBe(true);
});

test.each([0, 1, -1])("softmax and log-softmax over axis %i", async (axis) => {
  await check({ operands: [positive], build: (x) => ops.softmax(x as Value, axis) });
  await check({ operands: [positive], build: (x) => ops.logSoftmax(x as Value, axis) });
  await check({ operands: [symbolic], build: (x) => ops.softmax(x as Value, axis) });
});

test.each([
  [0, {}],
  [-1, { exclusive: true }],
  [1, { reverse: true }],
  [1, { exclusive: true, reverse: true }],
])("CumSum axis %i %j", async (axis, options) => {
  await check({ operands: [positive], build: (x) => ops.cumSum(x as Value, axis, options) });
});

test.each([
  [0, 1, 1],
  [-1, 2, 0],
  [1, 2, 1],
])("TopK values, axis %i, k %i, largest %i", async (axis, k, largest) => {
  const build = (x: Value | undefined) =>
    op("TopK", [x, ops.ints([k])], { axis: { i: axis }, largest: { i: largest } });
  await check({ operands: [positive], build });
});
