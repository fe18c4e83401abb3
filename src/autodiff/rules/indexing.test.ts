import { describe, test } from "vitest";
import { type Attrs, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const data: Operand = { shape: [3, 4] };
const open: Operand = { shape: [3, 4], symbolic: ["rows", "columns"] };
const indices = (shape: number[], values: number[], dtype: "int64" | "int32" = "int64"): Operand => ({
  shape,
  values,
  dtype,
});
const squared =
  (build: (...values: Value[]) => Value) =>
  (...values: Value[]) =>
    ops.square(build(...values));

describe("Gather", () => {
  test.each([0, 1, -1])("axis %i, repeated and negative indices", async (axis) => {
    const build = squared((x, i) => ops.gather(x as Value, i as Value, axis));
    for (const at of [
      indices([4], [0, 2, -1, 0]),
      indices([2, 2], [1, 1, -2, 0]),
      indices([], [1]),
      indices([3], [0, 1, 2], "int32"),
    ]) {
      await check({ operands: [data, at], build });
      await check({ operands: [open, at], build });
    }
  });
  test("of a rank-3 table in the middle axis", async () => {
    await check({
      operands: [{ shape: [2, 3, 2] }, indices([2, 2], [0, 2, 2, 1])],
      build: squared((x, i) => ops.gather(x as Value, i as Value, 1)),
    });
  });
});

test.each([0, 1, -1])("GatherElements, axis %i", async (axis) => {
  const build = squared((x, i) => ops.gatherElements(x as Value, i as Value, axis));
  await check({ operands: [data, indices([2, 3], [0, 2, -1, 0, 1, 1])], build });
  await check({ operands: [open, indices([2, 3], [0, 2, -1, 0, 1, 1])], build });
});

test("GatherND, whole rows, elements, batch axes", async () => {
  const build = (batch: number) =>
    squared((x, i) => op("GatherND", [x, i], batch > 0 ? { batch_dims: { i: batch } } : {}));
  await check({ operands: [data, indices([3, 1], [0, 2, -1])], build: build(0) });
  await check({ operands: [data, indices([2, 2], [0, 3, 0, -1])], build: build(0) });
  await check({ operands: [{ shape: [2, 3, 2] }, indices([2, 1], [2, 0])], build: build(1) });
  await check({ operands: [{ shape: [2, 2, 3] }, indices([2, 2, 1], [2, 0, -1, 1])], build: build(2) });
  await check({
    operands: [
      { shape: [2, 3, 2], symbolic: ["n", 3, 2] },
      { ...indices([2, 1], [2, 0]), symbolic: ["n", 1] },
    ],
    build: build(1),
  });
});

describe.each(["none", "add", "mul", "max", "min"] as const)("scatter with reduction %s", (reduction) => {
  const range = [0.4, 1.6] as const;
  test.each([0, 1, -1])("ScatterElements, axis %i", async (axis) => {
    const at = reduction === "none" ? [0, 1, -1, 1, 2, 0] : [0, 1, -1, 1, -1, 1];
    const build = squared((x, i, u) =>
      ops.scatterElements(x as Value, i as Value, u as Value, axis, reduction),
    );
    await check({ operands: [{ ...data, range }, indices([2, 3], at), { shape: [2, 3], range }], build });
  });
  test("ScatterND of rows and of elements", async () => {
    const build = squared((x, i, u) => ops.scatterNd(x as Value, i as Value, u as Value, reduction));
    const rows = reduction === "none" ? [0, -1] : [-1, 2];
    await check({ operands: [{ ...data, range }, indices([2, 1], rows), { shape: [2, 4], range }], build });
    await check({
      operands: [{ ...data, range }, indices([2, 2], [0, 1, 2, -1]), { shape: [2], range }],
      build,
    });
  });
});

test("Compress, along an axis and of the flattened data", async () => {
  const kept: Operand = { shape: [3], values: [1, 0, 1], dtype: "bool" };
  const along = (attrs: Attrs) => squared((x, c) => op("Compress", [x, c], attrs));
  const lower = ["Compress"];
  await check({ operands: [data, kept], build: along({ axis: { i: -2 } }), lower });
  await check({ operands: [data, kept], build: along({}), lower });
  const known = ops.cast(ops.ints([1, 0, 1]), "bool");
  await check({ operands: [data], build: (x) => ops.exp(op("Compress", [x, known], { axis: { i: 0 } })) });
});

test("ReverseSequence", async () => {
  const build = squared((x, n) =>
    op("ReverseSequence", [x, n], { time_axis: { i: 0 }, batch_axis: { i: 1 } }),
  );
  await check({ operands: [{ shape: [4, 3, 2] }, indices([3], [4, 2, 3])], build });
});
