import { describe, expect, test } from "vitest";
import { type Attrs, input, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { gradients } from "../gradients.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), {
    precision: "exact32",
    ...options,
  });
const of = (...shapes: number[][]): Operand[] => shapes.map((shape) => ({ shape }));
const attrsOf = (values: Record<string, number | string | number[]>): Attrs =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name,
      Array.isArray(value) ? { ints: value } : typeof value === "string" ? { s: value } : { i: value },
    ]),
  );
type Settings = Record<string, number | string | number[]>;
const named =
  (name: string, settings: Settings) =>
  (...values: Value[]) =>
    op(name, values, attrsOf(settings));

describe("Conv", () => {
  test.each([
    ["plain 2-D", {}, [2, 2, 4, 4], [3, 2, 3, 3], true],
    ["1x1", {}, [2, 2, 3, 3], [3, 2, 1, 1], false],
    ["pads", { pads: [1, 2, 0, 1] }, [1, 2, 4, 5], [2, 2, 3, 2], true],
    ["strides with a rest", { strides: [2, 3] }, [1, 2, 6, 7], [2, 2, 3, 2], false],
    ["dilations", { dilations: [2, 1], pads: [1, 1, 1, 1] }, [1, 1, 6, 5], [2, 1, 2, 3], false],
    [
      "strides, dilations, pads",
      { strides: [2, 2], dilations: [2, 2], pads: [1, 2, 2, 1] },
      [2, 2, 7, 6],
      [2, 2, 2, 3],
      true,
    ],
    ["groups", { group: 2 }, [2, 4, 4, 3], [6, 2, 2, 2], true],
    [
      "groups and strides",
      { group: 2, strides: [2, 2], pads: [1, 1, 1, 1] },
      [2, 4, 5, 4],
      [2, 2, 3, 3],
      false,
    ],
    ["depthwise", { group: 3, pads: [1, 1, 1, 1] }, [1, 3, 3, 3], [3, 1, 3, 3], true],
    ["1-D", { strides: [2], pads: [1, 1] }, [2, 3, 7], [2, 3, 3], true],
    ["3-D", { pads: [1, 0, 1, 0, 1, 0], strides: [1, 2, 1] }, [1, 2, 3, 4, 3], [2, 2, 2, 2, 2], true],
    ["SAME_UPPER", { auto_pad: "SAME_UPPER", strides: [2, 2] }, [1, 1, 5, 4], [2, 1, 3, 2], false],
    ["SAME_LOWER", { auto_pad: "SAME_LOWER", strides: [1, 2] }, [1, 1, 5, 4], [2, 1, 2, 3], false],
    ["VALID", { auto_pad: "VALID" }, [1, 1, 5, 4], [2, 1, 2, 3], false],
  ] as [string, Settings, number[], number[], boolean][])("%s", async (_, settings, x, w, bias) => {
    const operands = of(x, w, ...(bias ? [[w[0] as number]] : []));
    await check({ operands, build: named("Conv", settings) });
  });

  test("symbolic axes", async () => {
    const x = (...symbolic: (string | number)[]): Operand => ({ shape: [2, 2, 4, 4], symbolic });
    const build = named("Conv", { strides: [2, 2], pads: [1, 1, 1, 1] });
    await check({ operands: [x("n", 2, 4, 4), ...of([3, 2, 2, 2])], build });
    const frozen: Operand = { shape: [3, 2, 3, 3], differentiate: false };
    await check({ operands: [x("n", 2, "h", "w"), frozen], build: named("Conv", { pads: [1, 1, 1, 1] }) });
  });

  test("a stride over a symbolic length is refused, with the node's place", () => {
    const x = input("x", "float32", [1, 2, "h", 4]);
    const w = input("w", "float32", [3, 2, 2, 2]);
    const loss = ops.reduceSum(named("Conv", { strides: [2, 1] })(x, w), undefined, false);
    expect(() => gradients(loss, [x])).toThrow(/Conv.*static spatial lengths/s);
  });
});

describe("ConvTranspose", () => {
  test.each([
    ["plain", {}, [2, 2, 3, 3], [2, 3, 2, 2], true],
    ["strides", { strides: [2, 3] }, [1, 2, 3, 2], [2, 2, 3, 2], false],
    ["pads", { strides: [2, 2], pads: [1, 0, 0, 1] }, [1, 2, 3, 3], [2, 2, 3, 3], true],
    ["output padding", { strides: [3, 2], output_padding: [2, 1] }, [1, 1, 3, 3], [1, 2, 2, 3], false],
    ["dilations", { dilations: [2, 1], pads: [1, 1, 1, 1] }, [1, 2, 4, 3], [2, 1, 2, 3], false],
    ["groups", { group: 2, strides: [2, 2] }, [2, 4, 2, 3], [4, 3, 2, 2], true],
    ["1-D", { strides: [2], pads: [1, 1] }, [2, 3, 4], [3, 2, 3], true],
    ["3-D", { strides: [1, 2, 1] }, [1, 2, 2, 3, 2], [2, 1, 2, 2, 2], false],
    ["output_shape", { strides: [2, 2], output_shape: [6, 5] }, [1, 1, 3, 3], [1, 2, 3, 3], false],
  ] as [string, Settings, number[], number[], boolean][])("%s", async (_, settings, x, w, bias) => {
    const channels = (w[1] as number) * Number(settings.group ?? 1);
    await check({
      operands: of(x, w, ...(bias ? [[channels]] : [])),
      build: named("ConvTranspose", settings),
    });
  });
});

describe("pooling", () => {
  const pools: [string, Settings, number[]][] = [
    ["plain", { kernel_shape: [2, 2] }, [2, 2, 4, 5]],
    ["strides and pads", { kernel_shape: [3, 2], strides: [2, 2], pads: [1, 0, 1, 1] }, [1, 2, 5, 5]],
    ["overlapping", { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, [1, 1, 4, 4]],
    ["ceil mode", { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }, [1, 2, 6, 5]],
    [
      "ceil mode with pads",
      { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], ceil_mode: 1 },
      [1, 1, 6, 6],
    ],
    ["dilations", { kernel_shape: [2, 2], dilations: [2, 3] }, [1, 2, 5, 6]],
    ["SAME_UPPER", { kernel_shape: [2, 3], auto_pad: "SAME_UPPER", strides: [2, 2] }, [1, 1, 5, 5]],
    ["1-D", { kernel_shape: [3], strides: [2] }, [2, 2, 8]],
    ["3-D", { kernel_shape: [2, 2, 2] }, [1, 2, 3, 3, 2]],
  ];
  test.each(pools)("MaxPool %s", async (_, settings, shape) => {
    const build = named("MaxPool", settings);
    await check({ operands: of(shape), build: (x) => ops.square(build(x as Value)), precision: "float64" });
    const first = ops.square;
    await check({
      operands: [{ shape, symbolic: ["n", ...shape.slice(1)] }],
      build: (x) => first(build(x as Value)),
      precision: "float64",
    });
  });
  test("MaxPool in column-major order of indices", async () => {
    const build = named("MaxPool", { kernel_shape: [2, 2], storage_order: 1 });
    await check({ operands: of([1, 2, 3, 4]), build: (x) => build(x as Value), precision: "float64" });
  });
  test.each(pools)("AveragePool %s", async (_, settings, shape) => {
    for (const includePad of [0, 1]) {
      const build = named("AveragePool", { ...settings, count_include_pad: includePad });
      await check({ operands: of(shape), build });
      await check({ operands: [{ shape, symbolic: ["n", ...shape.slice(1)] }], build });
    }
  });
  test("global pools", async () => {
    const lower = ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"];
    for (const name of lower) {
      await check({ operands: of([2, 2, 3, 2]), build: named(name, {}), precision: "float64", lower });
      await check({
        operands: [{ shape: [2, 2, 3, 2], symbolic: ["n", 2, "h", "w"] }],
        build: named(name, {}),
        precision: "float64",
        lower,
      });
    }
    await check({
      operands: of([2, 2, 3]),
      build: named("GlobalLpPool", { p: 3 }),
      precision: "float64",
      lower,
    });
  });
  test.each([1, 2, 3])("LpPool p=%i", async (p) => {
    const operands: Operand[] = [{ shape: [1, 2, 4, 4], range: [0.5, 1.5] }];
    await check({
      operands,
      build: named("LpPool", { kernel_shape: [2, 2], strides: [2, 2], p }),
      precision: "float32",
    });
  });
});
