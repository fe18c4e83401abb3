import { expect, test } from "vitest";
import { type Attrs, op, ops, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import { checkGradients, type GradientCase, type Operand } from "../testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
type Build = (a: Value, b: Value, c: Value) => Value;
type Case = readonly [name: string, operands: readonly Operand[], build: Build, rest?: Partial<GradientCase>];
const run = ([, operands, build, rest]: Case) =>
  check({ operands, build: build as GradientCase["build"], ...rest });

const away = [0.2, 1.4] as const;
/** Both signs, away from 0 and from the kinks at ±1, ±3. */
const signed = [-3.6, -2.2, -1.3, -0.7, -0.2, 0.3, 0.8, 1.6, 2.4, 4.1];
const line = (range?: readonly [number, number]): Operand =>
  range ? { shape: [6], range } : { shape: [signed.length], values: signed };
const unary = (
  name: string,
  range?: readonly [number, number],
  attrs: Attrs = {},
  rest?: Partial<GradientCase>,
): Case => [`${name}${JSON.stringify(attrs)}`, [line(range)], (x) => op(name, [x], attrs), rest];
const microsoft = (name: string, operands: readonly Operand[], attrs: Attrs = {}): Case => [
  `com.microsoft.${name}`,
  operands,
  (...values) => op(name, values, attrs, { domain: "com.microsoft" }),
  { lower: [`com.microsoft.${name}`] },
];
const f = (value: number) => ({ f: value });

const cases: Case[] = [
  ...["Identity", "Neg", "Abs", "Sin", "Cos", "Tanh", "Sigmoid", "Relu", "Softplus"].map((name) =>
    unary(name),
  ),
  ...["Exp", "Sinh", "Cosh", "Asinh", "Tan"].map((name) => unary(name, [-1.2, 1.2])),
  ...["Asin", "Acos", "Atan"].map((name) => unary(name, [-0.6, 0.6], {}, { precision: "float32" })),
  unary("Atanh", [-0.8, 0.8]),
  unary("Acosh", [1.3, 3]),
  ...["Log", "Sqrt", "Reciprocal"].map((name) => unary(name, away)),
  unary("Erf", [-2, 2]),
  ["Gelu", [line([-2, 2])], (x) => ops.gelu(x)],
  ["Gelu tanh", [line([-2, 2])], (x) => ops.gelu(x, "tanh")],
  unary("LeakyRelu"),
  unary("LeakyRelu", undefined, { alpha: f(0.25) }),
  unary("Elu"),
  unary("Elu", undefined, { alpha: f(0.5) }),
  unary("Selu"),
  unary("Selu", undefined, { alpha: f(1.5), gamma: f(0.75) }),
  unary("Celu"),
  unary("Celu", undefined, { alpha: f(0.5) }),
  unary("ThresholdedRelu"),
  unary("ThresholdedRelu", undefined, { alpha: f(0.5) }),
  unary("HardSigmoid"),
  unary("HardSigmoid", undefined, { alpha: f(0.25), beta: f(0.375) }),
  unary("Shrink", undefined, { lambd: f(1), bias: f(0.25) }),
  ...["HardSwish", "Mish", "Softsign"].map((name) => unary(name)),
  ["Swish", [line()], (x) => op("Swish", [x], { alpha: f(0.5) }), { lower: ["Swish"] }],
  ["silu", [line()], (x) => ops.silu(x)],
  ["Pow 2", [line()], (x) => ops.pow(x, 2)],
  ["Pow 3", [line()], (x) => ops.pow(x, 3)],
  ["Pow 4, negative base", [line()], (x) => ops.pow(x, 4)],
  ["Pow 0", [line()], (x) => ops.pow(x, 0)],
  ["Pow 1", [line()], (x) => ops.pow(x, 1)],
  ["Pow 0.5", [line(away)], (x) => ops.pow(x, 0.5)],
  ["Pow -1.5", [line(away)], (x) => ops.pow(x, -1.5)],
  ["Pow", [{ shape: [2, 3], range: away }, { shape: [3] }], (x, p) => ops.pow(x, p)],
  ["Cast", [line()], (x) => ops.cast(ops.cast(x, "float32"), "float64"), { tolerance: 2e-2 }],
  ["CastLike", [line()], (x) => op("CastLike", [x, ops.scalar(1, "float64")])],
  [
    "FastGelu",
    [line([-2, 2])],
    (x) => op("FastGelu", [x], {}, { domain: "com.microsoft" }),
    { lower: ["com.microsoft.FastGelu"] },
  ],
  microsoft("FastGelu", [{ shape: [2, 3] }, { shape: [3] }]),
  microsoft("QuickGelu", [line([-2, 2])], { alpha: f(1.25) }),
  [
    "Gelu of com.microsoft",
    [line([-2, 2])],
    (x) => op("Gelu", [x], {}, { domain: "com.microsoft" }),
    { lower: ["com.microsoft.Gelu"] },
  ],
  [
    "BiasGelu",
    [{ shape: [2, 3] }, { shape: [3] }],
    (x, b) => op("BiasGelu", [x, b], {}, { domain: "com.microsoft" }),
    { lower: ["com.microsoft.BiasGelu"] },
  ],
];

test.each(cases)("%s", async (...item) => {
  await run(item as unknown as Case);
});

const shapes: [string, number[], number[]][] = [
  ["same", [2, 3], [2, 3]],
  ["leading axes", [4, 2, 3], [3]],
  ["left side", [3, 1], [2, 3, 4]],
  ["both sides", [2, 1, 3], [4, 1]],
  ["scalar left", [], [2, 2]],
  ["scalar right", [2, 2], []],
  ["ones", [2, 3], [1, 1, 1, 1]],
];
const pairs: [string, (a: Value, b: Value) => Value][] = [
  ["Add", ops.add],
  ["Sub", ops.sub],
  ["Mul", ops.mul],
  ["Div", ops.div],
  ["Max", ops.max],
  ["Min", ops.min],
  ["Mean", (a, b) => op("Mean", [a, b])],
  ["Sum", (a, b) => op("Sum", [a, b])],
  ["Where", (a, b) => ops.where(ops.greater(ops.add(a, b), 1.6), a, b)],
];
const grid = pairs.flatMap(([name, build]) =>
  shapes.map(([what, a, b]) => [`${name}, ${what}`, a, b, build] as const),
);

test.each(grid)("%s", async (_, a, b, build) => {
  await check({
    operands: [
      { shape: a, range: away },
      { shape: b, range: away },
    ],
    build: build as GradientCase["build"],
  });
});

test("symbolic axes broadcast like the numbers they are fed", async () => {
  const operands: Operand[] = [
    { shape: [2, 3, 4], symbolic: ["batch", "time", 4], range: away },
    { shape: [3, 1], symbolic: ["time", 1], range: away },
    { shape: [4], range: away },
  ];
  await check({ operands, build: (a, b, c) => ops.div(ops.mul(a as Value, c as Value), b as Value) });
  await check({
    operands,
    build: (a, b, c) => [ops.max(a as Value, b as Value), ops.sub(c as Value, b as Value)],
  });
});

test("n-ary operators and single operands", async () => {
  const operands = [{ shape: [2, 3] }, { shape: [3] }, { shape: [2, 1] }];
  for (const name of ["Max", "Min", "Sum", "Mean"]) {
    await check({ operands, build: (...values) => op(name, values) });
    await check({ operands: [{ shape: [3] }], build: (...values) => op(name, values) });
  }
});

test("ties of Max share the gradient evenly", async () => {
  const tie: Operand = { shape: [2], values: [1, 2] };
  const report = await check({
    operands: [tie, { shape: [2], values: [1, 0] }],
    build: (a, b) => ops.max(a as Value, b as Value),
    second: false,
  }).then((value) => value.gradients.map((gradient) => Array.from(gradient.data, Number)));
  const [a, b] = report as [number[], number[]];
  expect(a[0]).toBe(b[0]);
  expect(b[1]).toBeCloseTo(0);
});

test("Clip, with constant, missing and differentiated bounds", async () => {
  await check({ operands: [line()], build: (x) => ops.clip(x as Value, -1, 2) });
  await check({ operands: [line()], build: (x) => ops.clip(x as Value, -1) });
  await check({ operands: [line()], build: (x) => ops.clip(x as Value, undefined, 2) });
  const bounds = [line(), { shape: [], values: [-1] }, { shape: [], values: [2] }];
  await check({
    operands: bounds,
    build: (x, low, high) => ops.clip(x as Value, low as Value, high as Value),
  });
});

test("operators of diffusion models", async () => {
  const named =
    (name: string) =>
    (...values: Value[]) =>
      op(name, values, {}, { domain: "com.microsoft" });
  const x: Operand = { shape: [2, 3, 4] };
  await check({
    operands: [x, { shape: [4] }],
    build: named("BiasSplitGelu"),
    lower: ["com.microsoft.BiasSplitGelu"],
  });
  await check({
    operands: [x, { shape: [4] }, x],
    build: named("BiasAdd"),
    lower: ["com.microsoft.BiasAdd"],
  });
});

test("Mod with fmod", async () => {
  const operands = [
    { shape: [4], values: [5.3, -5.3, 2.2, -0.7] },
    { shape: [1], values: [1.7] },
  ];
  await check({ operands, build: (a, b) => op("Mod", [a, b], { fmod: { i: 1 } }) });
});

test("PRelu with a slope per channel and per element", async () => {
  const x: Operand = { shape: [2, 3], values: [-1, 2, -3, 4, -0.5, 0.7] };
  for (const shape of [[3], [1], [2, 3]])
    await check({ operands: [x, { shape }], build: (a, b) => op("PRelu", [a, b]) });
});

test("Pow has finite gradients at zero", async () => {
  const operands: Operand[] = [
    { shape: [3], values: [0, 2, 0] },
    { shape: [3], values: [2, 0, 3], differentiate: false },
  ];
  const report = await check({ operands, build: (x, p) => ops.pow(x as Value, p as Value), second: false });
  expect(Array.from(report.gradients[0]?.data ?? [], Number).every(Number.isFinite)).toBe(true);
});

test("the harness notices a wrong derivative", async () => {
  const wrong = (x: Value) => ops.customVjp(ops.square(x), [x], [], (_, dy) => [dy]);
  await expect(check({ operands: [line()], build: (x) => wrong(x as Value) })).rejects.toMatchObject({
    code: "numerical-failure",
  });
});
