import { describe, expect, test } from "vitest";
import { type Attrs, constant, op, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import { compareDecomposition } from "../testing/compare-decomposition.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const compile = (graph: Parameters<typeof createSession>[0]) =>
  createSession(graph, { threads: 1, optimization: "basic" });
const lower = ["Resize", "GridSample"];
const check = (options: GradientCase) => checkGradients(compile, { lower, ...options });
type Settings = Record<string, number | string | number[]>;
const attrsOf = (values: Settings): Attrs =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name,
      Array.isArray(value)
        ? { ints: value }
        : typeof value === "string"
          ? { s: value }
          : name === "cubic_coeff_a" || name === "extrapolation_value"
            ? { f: value }
            : { i: value },
    ]),
  );
const scales = (values: number[]) => constant(tensor("float32", [values.length], values));
const sizes = (values: number[]) => constant(tensor("int64", [values.length], values));

describe("Resize", () => {
  const up = (factors: number[], settings: Settings, roi?: number[]) => (x: Value) =>
    op("Resize", [x, roi && scales(roi), scales(factors)], attrsOf(settings));
  const to = (lengths: number[], settings: Settings) => (x: Value) =>
    op("Resize", [x, undefined, undefined, sizes(lengths)], attrsOf(settings));
  const transforms = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
  ];
  const cases: [string, (x: Value) => Value][] = [
    ["nearest x2", up([1, 1, 2, 2], { coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" })],
    ...["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"].map(
      (mode): [string, (x: Value) => Value] => [`nearest ${mode}`, to([2, 3, 7, 3], { nearest_mode: mode })],
    ),
    ...transforms.flatMap((mode): [string, (x: Value) => Value][] => [
      [`nearest ${mode}`, up([1, 1, 1.5, 0.6], { coordinate_transformation_mode: mode })],
      [`linear ${mode}`, to([2, 3, 6, 3], { mode: "linear", coordinate_transformation_mode: mode })],
      [`cubic ${mode}`, to([2, 3, 7, 3], { mode: "cubic", coordinate_transformation_mode: mode })],
    ]),
    ["linear by scales", up([1, 1, 1.7, 0.7], { mode: "linear" })],
    ["cubic, other coefficient", up([1, 1, 2, 2], { mode: "cubic", cubic_coeff_a: -0.5 })],
    ["cubic, outside excluded", up([1, 1, 1.5, 0.8], { mode: "cubic", exclude_outside: 1 })],
    ["linear antialias", to([2, 3, 2, 3], { mode: "linear", antialias: 1 })],
    ["cubic antialias", to([2, 3, 3, 2], { mode: "cubic", antialias: 1 })],
    [
      "chosen axes",
      (x) =>
        op("Resize", [x, undefined, undefined, sizes([6, 8])], attrsOf({ mode: "linear", axes: [2, 3] })),
    ],
    [
      "tf_crop_and_resize",
      (x) =>
        op(
          "Resize",
          [x, scales([0, 0, 0.2, -0.3, 1, 1, 0.9, 1.2]), undefined, sizes([2, 3, 5, 6])],
          attrsOf({
            mode: "linear",
            coordinate_transformation_mode: "tf_crop_and_resize",
            extrapolation_value: 2,
          }),
        ),
    ],
  ];
  test.each(cases)("%s", async (_, build) => {
    const operand: Operand = { shape: [2, 3, 4, 5] };
    const forward = await compareDecomposition(compile, {
      operands: [operand],
      build: (x) => build(x as Value),
      lower,
    });
    expect(forward).toBeLessThan(2e-5);
    await check({ operands: [operand], build: (x) => build(x as Value) });
  });
  test("symbolic batch and channels", async () => {
    const build = up([1, 1, 2, 2], { mode: "linear" });
    await check({
      operands: [{ shape: [2, 3, 2, 3], symbolic: ["n", "c", 2, 3] }],
      build: (x) => build(x as Value),
    });
  });
  test("one axis", async () => {
    await check({
      operands: [{ shape: [1, 2, 5] }],
      build: (x) => up([1, 1, 2], { mode: "linear" })(x as Value),
    });
  });
});

describe("GridSample", () => {
  const grid = (points: number[], rank: number): Operand => ({
    shape: [2, ...points, rank],
    range: [-1.15, 1.15],
  });
  const cases = ["linear", "nearest", "cubic"].flatMap((mode) =>
    ["zeros", "border", "reflection"].flatMap((padding) =>
      [0, 1].map((corners) => [mode, padding, corners] as const),
    ),
  );
  test.each(cases)("%s %s align_corners=%i", async (mode, padding, corners) => {
    const settings = attrsOf({ mode, padding_mode: padding, align_corners: corners });
    const build = (...values: Value[]) => op("GridSample", values, settings);
    const operands = [{ shape: [2, 2, 4, 3] }, grid([2, 3], 2)];
    expect(await compareDecomposition(compile, { operands, build, lower })).toBeLessThan(2e-5);
    await check({ operands, build });
  });
  test("volumes", async () => {
    const build = (...values: Value[]) => op("GridSample", values, attrsOf({ mode: "linear" }));
    const operands = [{ shape: [2, 2, 2, 3, 2] }, grid([1, 2, 2], 3)];
    expect(await compareDecomposition(compile, { operands, build, lower })).toBeLessThan(2e-5);
    await check({ operands, build });
  });
});
