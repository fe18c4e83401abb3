import { describe, expect, test } from "vitest";
import { type Attrs, input, makeNode, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { gradients } from "../gradients.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const x: Operand = { shape: [2, 3, 4] };
const open: Operand = { shape: [2, 3, 4], symbolic: ["batch", "time", 4] };
/** Squared, so that second derivatives are not all zero. */
const on = (operand: Operand, build: (value: Value) => Value) =>
  check({ operands: [operand], build: (value) => ops.square(build(value as Value)) });

describe("layout", () => {
  const builds: [string, (value: Value) => Value][] = [
    ["Reshape", (value) => op("Reshape", [value, ops.ints([-1, 4])])],
    ["Reshape with 0", (value) => op("Reshape", [value, ops.ints([0, -1])])],
    ["Flatten", (value) => op("Flatten", [value])],
    ["Flatten 0", (value) => op("Flatten", [value], { axis: { i: 0 } })],
    ["Flatten -1", (value) => op("Flatten", [value], { axis: { i: -1 } })],
    ["Unsqueeze", (value) => ops.unsqueeze(value, 0, -1)],
    ["Squeeze", (value) => ops.squeeze(ops.unsqueeze(value, 1), 1)],
    ["Squeeze all", (value) => op("Squeeze", [ops.unsqueeze(value, -2)])],
    ["Transpose", (value) => ops.transpose(value, [2, 0, 1])],
    ["Transpose default", (value) => op("Transpose", [value])],
    ["Expand", (value) => op("Expand", [ops.unsqueeze(value, 0), ops.ints([3, 1, 1, 1])])],
    ["Tile", (value) => ops.tile(value, [1, 2, 3])],
    ["Trilu upper", (value) => ops.trilu(value, true, 1)],
    ["Trilu lower", (value) => ops.trilu(value, false, -1)],
    ["Concat", (value) => ops.concat([value, ops.mul(value, 2), value], 1)],
    ["Concat negative axis", (value) => ops.concat([value, ops.exp(value)], -1)],
  ];
  test.each(builds)("%s", async (_, build) => {
    await on(x, build);
    await on(open, build);
  });

  test("Concat of different lengths, also symbolic", async () => {
    const build = (...values: Value[]) => ops.square(ops.concat(values, 1));
    await check({ operands: [x, { shape: [2, 1, 4] }], build });
    await check({ operands: [open, { shape: [2, 2, 4], symbolic: ["batch", "more", 4] }], build });
  });

  test("Expand of a broadcast axis and of a scalar", async () => {
    await on({ shape: [3, 1] }, (value) => op("Expand", [value, ops.ints([2, 1, 4])]));
    await on({ shape: [] }, (value) => op("Expand", [value, ops.ints([2, 2])]));
  });

  test("Split, with an unused part", async () => {
    const parts = (value: Value) => ops.split(value, [1, 2, 1], -1);
    await on(x, (value) => ops.mul(parts(value)[0] as Value, parts(value)[2] as Value));
    await on(open, (value) => parts(value)[1] as Value);
    await on(x, (value) => {
      const [a, b] = makeNode(
        "Split",
        [value],
        { axis: { i: 2 }, num_outputs: { i: 2 } },
        { outputs: 2 },
      ).outputs;
      return ops.mul(a as Value, b as Value);
    });
  });

  test.each(["DCR", "CRD"])("DepthToSpace %s", async (mode) => {
    const attrs: Attrs = { blocksize: { i: 2 }, mode: { s: mode } };
    await on({ shape: [1, 8, 2, 3] }, (value) => op("DepthToSpace", [value], attrs));
  });

  test("SpaceToDepth", async () => {
    await on({ shape: [2, 2, 4, 6] }, (value) => op("SpaceToDepth", [value], { blocksize: { i: 2 } }));
  });
});

describe("Slice", () => {
  const slice = (starts: number[], ends: number[], axes?: number[], steps?: number[]) => (value: Value) =>
    op("Slice", [value, ops.ints(starts), ops.ints(ends), axes && ops.ints(axes), steps && ops.ints(steps)]);
  const cases: [string, (value: Value) => Value][] = [
    ["one axis", slice([1], [3], [2])],
    ["negative axis and ends", slice([-3], [-1], [-1])],
    ["two axes without axes input", slice([0, 1], [1, 3])],
    ["open end", slice([1], [2 ** 31 - 1], [1])],
    ["step 2", slice([0], [4], [2], [2])],
    ["step -1", slice([-1], [-100], [2], [-1])],
    ["step -2 from the middle", slice([2], [-100], [2], [-2])],
    ["steps on two axes", slice([0, 3], [3, 0], [1, 2], [2, -1])],
    ["beyond the end", slice([2], [100], [2])],
  ];
  test.each(cases)("%s", async (_, build) => {
    await on(x, build);
  });

  test("symbolic lengths", async () => {
    await on(open, slice([1], [2 ** 31 - 1], [1]));
    await on(open, slice([-2], [2 ** 31 - 1], [1]));
    await on(open, slice([0], [2], [1]));
    await on(open, slice([0], [-1], [1]));
    await on(open, slice([1], [3], [2], [2]));
  });

  test("a step on a symbolic axis cannot be undone, and says so", () => {
    const value = input("x", "float32", ["n"]);
    const loss = ops.reduceSum(ops.slice(value, 0, 0, 8, 2), undefined, false);
    expect(() => gradients(loss, [value])).toThrow(/step 2 of the symbolic axis 0/);
  });
});

describe("Pad", () => {
  const pad = (mode: string, pads: number[], axes?: number[]) => (value: Value) =>
    op("Pad", [value, ops.ints(pads), undefined, axes && ops.ints(axes)], { mode: { s: mode } });
  test.each(["constant", "reflect", "edge", "wrap"])("%s", async (mode) => {
    await on(x, pad(mode, [0, 1, 2, 1, 0, 3]));
    await on(x, pad(mode, [2, 0, 1, 2], [-1, 1]));
  });
  test("negative pads crop", async () => {
    await on(x, pad("constant", [0, -1, 1, 0, 0, -1]));
    await on(x, pad("reflect", [0, 0, -1, 0, 0, 2]));
  });
  test("symbolic lengths", async () => {
    await on(open, pad("constant", [0, 1, 2, 0, 1, 0]));
    await on(open, pad("reflect", [0, 0, 2, 0, 0, 1]));
  });
  test("the value that is padded with", async () => {
    const build = (...values: Value[]) =>
      ops.square(op("Pad", [values[0], ops.ints([0, 1, 0, 1, 0, 2]), values[1]]));
    await check({ operands: [x, { shape: [] }], build });
  });
});

describe("Dropout", () => {
  test("is the identity outside training", async () => {
    await on(x, (value) => op("Dropout", [value]));
    await on(x, (value) => op("Dropout", [value, ops.scalar(0.5, "float64"), ops.scalar(0, "bool")]));
  });
  test("in training mode is refused: masks are fed", () => {
    const value = input("x", "float32", [4]);
    const dropped = op("Dropout", [value, ops.scalar(0.5), ops.scalar(1, "bool")]);
    expect(() => gradients(ops.reduceSum(dropped, undefined, false), [value])).toThrow(/feed a mask/);
  });
});
