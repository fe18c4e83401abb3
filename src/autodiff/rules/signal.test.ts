import { describe, expect, test } from "vitest";
import { type Attrs, constant, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import { compareDecomposition } from "../testing/compare-decomposition.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const compile = (graph: Parameters<typeof createSession>[0]) =>
  createSession(graph, { threads: 1, optimization: "basic" });
const lower = ["DFT", "STFT", "LRN", "RoiAlign", "AffineGrid"];
const i = (value: number) => ({ i: value });
const f = (value: number) => ({ f: value });
async function verify(item: GradientCase, tolerance = 1e-5): Promise<void> {
  expect(await compareDecomposition(compile, { ...item, lower })).toBeLessThan(tolerance);
  await checkGradients(compile, { ...item, lower });
}
const number = (value: number) => ops.scalar(value, "int64");

describe("DFT", () => {
  const dft = (attrs: Attrs, axis: number, length?: number) => (x: Value | undefined) =>
    op("DFT", [x, length === undefined ? undefined : number(length), number(axis)], attrs);
  test.each<[string, number[], Attrs, number, number | undefined]>([
    ["real", [2, 7, 1], {}, 1, undefined],
    ["complex", [2, 6, 2], {}, 1, undefined],
    ["inverse", [2, 6, 2], { inverse: i(1) }, -2, undefined],
    ["one-sided", [2, 7, 1], { onesided: i(1) }, 1, undefined],
    ["longer than the data", [2, 5, 1], {}, 1, 8],
    ["shorter than the data", [2, 8, 2], {}, 1, 5],
    ["along another axis", [4, 3, 2, 2], {}, 0, undefined],
  ])("%s", async (_, shape, attrs, axis, length) => {
    await verify({ operands: [{ shape }], build: dft(attrs, axis, length) });
  });
});

describe("STFT", () => {
  const window = (values: number[]) => constant(tensor("float32", [values.length], values));
  test.each([1, 0])("onesided=%i", async (onesided) => {
    const hop = number(3);
    const build = (x: Value | undefined, w: Value | undefined) =>
      op("STFT", [x, hop, w], { onesided: i(onesided) });
    await verify({ operands: [{ shape: [2, 14, 1] }, { shape: [6] }], build });
  });
  test("without a window, with a frame length", async () => {
    await verify({
      operands: [{ shape: [1, 12, 1] }],
      build: (x) => op("STFT", [x, number(2), undefined, number(4)]),
    });
  });
  test("a step that is only known at run time is refused", async () => {
    const build = (x: Value | undefined, step: Value | undefined) => op("STFT", [x, step, window([1, 1])]);
    const operands: Operand[] = [{ shape: [1, 8, 1] }, { shape: [], values: [2], dtype: "int64" }];
    await expect(compareDecomposition(compile, { operands, build, lower })).rejects.toThrow(/STFT.*run time/);
  });
});

test.each([
  [5, 0.75],
  [3, 0.5],
  [1, 1],
])("LRN of size %i, beta %f", async (size, beta) => {
  const attrs: Attrs = { size: i(size), alpha: f(0.3), beta: f(beta), bias: f(1.5) };
  await verify({ operands: [{ shape: [2, 7, 2, 3] }], build: (x) => op("LRN", [x], attrs) });
});

describe("RoiAlign", () => {
  const boxes: Operand = {
    shape: [3, 4],
    values: [0.7, 1.1, 6.3, 5.2, 2.3, 0.4, 9.1, 3.9, 1.2, 1.3, 3.4, 8.2],
  };
  const images: Operand = { shape: [3], values: [0, 1, 1], dtype: "int64" };
  test.each(["half_pixel", "output_half_pixel"])("%s", async (mode) => {
    const attrs: Attrs = {
      output_height: i(2),
      output_width: i(3),
      sampling_ratio: i(2),
      spatial_scale: f(0.8),
      coordinate_transformation_mode: { s: mode },
    };
    const build = (...v: Value[]) => op("RoiAlign", v, attrs);
    await verify({ operands: [{ shape: [2, 2, 5, 6] }, boxes, images], build });
  });
  test.each<[string, Attrs]>([
    ["sampling_ratio=0", {}],
    ["mode=max", { sampling_ratio: i(2), mode: { s: "max" } }],
  ])("%s is refused by name", async (what, attrs) => {
    const item = {
      operands: [{ shape: [2, 2, 5, 6] }, boxes, images],
      build: (...v: Value[]) => op("RoiAlign", v, attrs),
    };
    await expect(compareDecomposition(compile, { ...item, lower })).rejects.toThrow(what);
  });
});

test.each<[number[], number[], number]>([
  [[2, 2, 3], [2, 1, 3, 4], 0],
  [[2, 2, 3], [2, 1, 3, 4], 1],
  [[1, 3, 4], [1, 1, 2, 3, 4], 0],
])("AffineGrid %j to %j, align_corners=%i", async (shape, size, corners) => {
  const build = (theta: Value | undefined) =>
    op("AffineGrid", [theta, ops.ints(size)], { align_corners: i(corners) });
  await verify({ operands: [{ shape }], build });
});
