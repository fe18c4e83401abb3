import { describe, expect, test } from "vitest";
import { type Attrs, decompose, makeGraph, makeNode, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { compareDecomposition, largestOutput } from "../testing/compare-decomposition.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const compile = (graph: Parameters<typeof createSession>[0]) =>
  createSession(graph, { threads: 1, optimization: "basic" });
const MS = { domain: "com.microsoft" };
const names =
  "FusedConv FusedGemm FusedMatMulActivation GemmFastGelu NhwcConv GroupNorm SkipGroupNorm BiasSoftmax TransposeMatMul";
const lower = [...names.split(" ").map((name) => `com.microsoft.${name}`), "com.microsoft.FusedMatMul"];
const f = (value: number) => ({ f: value });
const i = (value: number) => ({ i: value });
const of = (...shapes: number[][]): Operand[] => shapes.map((shape) => ({ shape }));
const node =
  (name: string, attrs: Attrs) =>
  (...values: Value[]) =>
    op(name, values, attrs, MS);

/** Against the kernel, then the gradient in single precision where no double kernel exists. */
async function verify(item: GradientCase): Promise<void> {
  expect(await compareDecomposition(compile, { ...item, lower })).toBeLessThan(2e-5);
  await checkGradients(compile, { lower, ...item });
}

describe("FusedConv", () => {
  const window: Attrs = { kernel_shape: { ints: [3, 3] }, pads: { ints: [1, 1, 1, 1] } };
  const operands = of([1, 2, 4, 4], [3, 2, 3, 3], [3], [1, 3, 4, 4]);
  const activations: [string, number[]][] = [
    ["Relu", []],
    ["Tanh", []],
    ["Sigmoid", []],
    ["LeakyRelu", [0.2]],
    ["HardSigmoid", [0.15, 0.4]],
    ["Clip", [-0.5, 0.75]],
  ];
  test.each(activations)("with %s", async (name, params) => {
    const attrs: Attrs = {
      ...window,
      activation: { s: name },
      ...(params.length > 0 ? { activation_params: { floats: params } } : {}),
    };
    const build = node("FusedConv", attrs);
    expect(
      await compareDecomposition(compile, { operands: operands.slice(0, 3), build, lower }),
    ).toBeLessThan(2e-5);
    expect(await compareDecomposition(compile, { operands, build, lower })).toBeLessThan(2e-5);
    const smooth = name === "Tanh" || name === "Sigmoid";
    if (smooth)
      await checkGradients(compile, { operands, build, lower, precision: "float32", tolerance: 2e-2 });
  });
  test("an activation without a definition is refused by name", () => {
    const [x, w] = [ops.full([1, 1, 3, 3], 1, "float32"), ops.full([1, 1, 3, 3], 1, "float32")];
    const y = node("FusedConv", { activation: { s: "Snake" } })(x, w);
    expect(() => decompose(makeGraph("g", [], [["y", y]]))).toThrow(/activation=Snake/);
  });
});

describe("products", () => {
  test.each([
    ["Relu", {}],
    ["LeakyRelu", { activation_alpha: f(0.3) }],
    ["Tanh", {}],
  ])("FusedGemm with %s", async (name, more) => {
    const attrs: Attrs = { activation: { s: name }, transB: i(1), alpha: f(0.5), beta: f(2), ...more };
    const build = node("FusedGemm", attrs);
    await verify({ operands: of([2, 3], [4, 3], [4]), build });
  });
  test("TransposeMatMul", async () => {
    const build = node("TransposeMatMul", { transA: i(1), transB: i(1), alpha: f(0.5) });
    await verify({ operands: of([2, 3, 4], [2, 5, 3]), build });
  });
  test("without a kernel: FusedMatMulActivation, GemmFastGelu", async () => {
    const lowered = (y: Value) => decompose(makeGraph("g", [], [["y", y]])).outputs.get("y") as Value;
    const attrs: Attrs = { transB: i(1), alpha: f(2) };
    const activated = node("FusedMatMulActivation", { ...attrs, activation: { s: "Tanh" } });
    const plain = (a: Value, b: Value) => ops.tanh(ops.mul(ops.matmul(a, ops.transposeLast(b)), 2));
    const fast = node("GemmFastGelu", {});
    const written = (a: Value, b: Value, c: Value) => ops.gelu(ops.add(ops.matmul(a, b), c), "tanh");
    const differences: [number[][], (...v: Value[]) => Value][] = [
      [
        [
          [2, 3],
          [4, 3],
        ],
        (a, b) => ops.sub(lowered(activated(a as Value, b as Value)), plain(a as Value, b as Value)),
      ],
      [
        [[2, 3], [3, 4], [4]],
        (a, b, c) =>
          ops.sub(
            lowered(fast(a as Value, b as Value, c as Value)),
            written(a as Value, b as Value, c as Value),
          ),
      ],
    ];
    for (const [shapes, build] of differences)
      expect(await largestOutput(compile, { operands: of(...shapes), build })).toBeLessThan(1e-6);
    await checkGradients(compile, { operands: of([2, 3], [4, 3]), build: activated, lower });
    await checkGradients(compile, { operands: of([2, 3], [3, 4], [4]), build: fast, lower });
  });
});

describe("layouts with the channels last", () => {
  const first = (x: Value) => ops.transpose(x, [0, 3, 1, 2]);
  const last = (x: Value) => ops.transpose(x, [0, 2, 3, 1]);
  const lowered = (y: Value) => decompose(makeGraph("g", [], [["y", y]])).outputs.get("y") as Value;
  test("NhwcConv", async () => {
    const attrs: Attrs = { strides: { ints: [2, 2] }, pads: { ints: [1, 1, 1, 1] } };
    const build = (...[x, w, b]: Value[]) =>
      ops.sub(
        lowered(op("NhwcConv", [x, w, b], attrs, MS)),
        last(op("Conv", [first(x as Value), w, b], attrs)),
      );
    const operands = of([1, 4, 5, 2], [3, 2, 3, 3], [3]);
    expect(await largestOutput(compile, { operands, build })).toBeLessThan(1e-6);
    const convolve = node("NhwcConv", attrs);
    expect(
      convolve(...(operands.map(({ shape }) => ops.full(shape, 1, "float32")) as Value[])).shape,
    ).toEqual([1, 2, 3, 3]);
    await checkGradients(compile, { operands, build: convolve, lower, precision: "exact32" });
  });
  const normal = (x: Value, g: Value, b: Value) => op("GroupNormalization", [x, g, b], { num_groups: i(2) });
  const inputs = of([2, 3, 2, 4], [4], [4]);
  test.each([0, 1])("GroupNorm, activation=%i", async (activation) => {
    const attrs: Attrs = { groups: i(2), activation: i(activation), channels_last: i(1) };
    const reference = (x: Value, g: Value, b: Value) => {
      const y = normal(first(x), g, b);
      return last(activation ? ops.silu(y) : y);
    };
    const build = (...[x, g, b]: Value[]) =>
      ops.sub(
        lowered(node("GroupNorm", attrs)(x as Value, g as Value, b as Value)),
        reference(x as Value, g as Value, b as Value),
      );
    expect(await largestOutput(compile, { operands: inputs, build })).toBeLessThan(1e-5);
    await checkGradients(compile, { operands: inputs, build: node("GroupNorm", attrs), lower });
    const channelsFirst = node("GroupNorm", { groups: i(2), activation: i(0), channels_last: i(0) });
    await checkGradients(compile, { operands: of([2, 4, 3], [4], [4]), build: channelsFirst, lower });
  });
  test.each([[[2, 3, 2, 4]], [[2, 1, 1, 4]], [[2, 4]]])("SkipGroupNorm with a skip of %j", async (shape) => {
    const attrs: Attrs = { groups: i(2), activation: i(1) };
    const all = (...v: Value[]) => makeNode("SkipGroupNorm", v, attrs, { ...MS, outputs: 2 }).outputs;
    const operands = [...inputs, { shape }, { shape: [4] }];
    const build = (...[x, g, b, s, c]: Value[]) => {
      const wide = shape.length === 2 ? ops.unsqueeze(s as Value, 1, 2) : (s as Value);
      const sum = ops.add(ops.add(x as Value, wide), c as Value);
      const parts = decompose(
        makeGraph(
          "g",
          [],
          [...all(...([x, g, b, s, c] as Value[])).entries()].map(([at, y]) => [`${at}`, y] as const),
        ),
      ).outputs;
      const y = last(ops.silu(normal(first(sum), g as Value, b as Value)));
      return [ops.sub(parts.get("0") as Value, y), ops.sub(parts.get("1") as Value, sum)];
    };
    expect(await largestOutput(compile, { operands, build })).toBeLessThan(1e-5);
    await checkGradients(compile, { operands, build: all, lower });
  });
});

test.each([
  [3, [2, 1, 1, 4]],
  [3, [2, 3, 4]],
  [2, [2, 1, 3, 4]],
])("BiasSoftmax from axis %i on, bias %j: no kernel on processors", async (axis, shape) => {
  const build = node("BiasSoftmax", { axis: i(axis), is_inner_broadcast: i(1) });
  const operands = of([2, 2, 3, 4], shape);
  const difference = (...[x, b]: Value[]) => {
    const powers = ops.exp(ops.add(x as Value, b as Value));
    const axes = [2, 3].filter((at) => at >= axis);
    const y = decompose(makeGraph("g", [], [["y", build(x as Value, b as Value)]])).outputs.get("y") as Value;
    return ops.sub(y, ops.div(powers, ops.reduceSum(powers, axes)));
  };
  expect(await largestOutput(compile, { operands, build: difference })).toBeLessThan(1e-6);
  await checkGradients(compile, { operands, build, lower });
});
