import { describe, expect, test } from "vitest";
import {
  type Attrs,
  constant,
  input,
  makeGraph,
  makeNode,
  nodesOf,
  op,
  ops,
  type Value,
} from "../../graph/index.js";
import { createSession, evaluate } from "../../runtime/index.js";
import { type Dtype, type Tensor, tensor } from "../../tensor/index.js";
import { gradients } from "../gradients.js";
import { compareDecomposition } from "../testing/compare-decomposition.js";
import {
  type Compile,
  checkGradients,
  drawValues,
  generator,
  type Operand,
} from "../testing/finite-differences.js";

const compile: Compile = (graph) => createSession(graph, { threads: 1, optimization: "basic" });
const MS = { domain: "com.microsoft" };
const random = generator(5);
const codes = (
  dtype: Dtype,
  shape: number[],
  [low, high]: [number, number] = dtype === "int8" ? [-127, 127] : [0, 255],
) => constant(tensor(dtype, shape, drawValues(random, shape, [low, high], true)));
const vector = (...values: number[]) => constant(tensor("float32", [values.length], values));
const number = (value: number, dtype: Dtype = "float32") => ops.scalar(value, dtype);

/** Gradients of Σ y·weights for x by a quantised graph and by the float graph it stands for. */
async function both(
  shape: number[],
  quantised: (x: Value) => Value,
  real: (x: Value) => Value,
  range: [number, number] = [-1.5, 1.5],
): Promise<[number[], number[]]> {
  const x = input("x", "float32", shape);
  const y = quantised(x);
  const weights = constant(
    tensor("float32", y.shape as number[], drawValues(random, y.shape as number[], [-2, 2], false)),
  );
  const loss = (value: Value) => ops.reduceSum(ops.mul(value, weights), undefined, false);
  const feeds = { x: tensor("float32", shape, drawValues(random, shape, range, false)) };
  const results = await evaluate(
    makeGraph(
      "g",
      [x],
      [
        ["a", gradients(loss(y), [x])[0] as Value],
        ["b", gradients(loss(real(x)), [x])[0] as Value],
      ],
    ),
    feeds,
  );
  return [results.a, results.b].map((value) => Array.from((value as Tensor).data as Float32Array)) as [
    number[],
    number[],
  ];
}

async function same(...options: Parameters<typeof both>): Promise<void> {
  const [got, want] = await both(...options);
  expect(want.some((value) => value !== 0)).toBe(true);
  const scale = Math.max(...want.map(Math.abs));
  for (const [at, value] of want.entries())
    expect(Math.abs((got[at] as number) - value)).toBeLessThan(1e-4 * scale);
}

const dequantise = (q: Value, scale: Value, zero: Value | undefined, axis = 1) =>
  op("DequantizeLinear", [q, scale, zero], { axis: { i: axis } });

/** The form of dynamically quantised exports. */
function dynamic(x: Value, product: (q: Value, zero: Value) => Value, scale: Value): Value {
  const [q, step, zero] = makeNode("DynamicQuantizeLinear", [x]).outputs as [Value, Value, Value];
  return ops.mul(ops.cast(product(q, zero), "float32"), ops.mul(step, scale));
}

describe("dynamically quantised products", () => {
  const [w, zero, scale] = [codes("uint8", [5, 4]), codes("uint8", [4]), vector(0.1, 0.2, 0.3, 0.4)];
  test.each([
    ["per column", zero, scale],
    ["of one scale", number(128, "uint8"), number(0.5)],
    ["without a zero point", undefined, number(0.5)],
  ])("MatMulInteger %s", async (_, point, step) => {
    const weights = () => dequantise(w, ops.expand(step, [4]), point && ops.expand(point, [4]));
    await same(
      [2, 3, 5],
      (x) => dynamic(x, (q, z) => op("MatMulInteger", [q, w, z, point]), step),
      (x) => ops.matmul(x, weights()),
    );
  });
  test("MatMulInteger of two activations", async () => {
    const both = (x: Value, z: Value) => {
      const [q, step, zero] = makeNode("DynamicQuantizeLinear", [z]).outputs as [Value, Value, Value];
      return dynamic(x, (p, point) => op("MatMulInteger", [p, ops.transposeLast(q), point, zero]), step);
    };
    const codesOf = (x: Value) => {
      const [q, step, zero] = makeNode("DynamicQuantizeLinear", [x]).outputs as [Value, Value, Value];
      return ops.mul(ops.sub(ops.cast(q, "float32"), ops.cast(zero, "float32")), step);
    };
    const rounded = (x: Value) => ops.customVjp(codesOf(x), [x], [], (_, dy) => [dy]);
    await same(
      [3, 4],
      (x) => both(x, ops.exp(x)),
      (x) => ops.matmul(rounded(x), ops.transposeLast(rounded(ops.exp(x)))),
    );
  });
  test("ConvInteger", async () => {
    const filter = codes("uint8", [3, 2, 3, 3]);
    const attrs: Attrs = { pads: { ints: [1, 1, 1, 1] }, strides: { ints: [2, 2] } };
    await same(
      [1, 2, 5, 5],
      (x) =>
        dynamic(x, (q, z) => op("ConvInteger", [q, filter, z, number(120, "uint8")], attrs), number(0.25)),
      (x) => op("Conv", [x, dequantise(filter, number(0.25), number(120, "uint8"))], attrs),
    );
  });
  test("DynamicQuantizeMatMul and MatMulIntegerToFloat, with bias", async () => {
    const [bias, real] = [vector(1, 2, 3, 4), (x: Value) => ops.matmul(x, dequantise(w, scale, zero))];
    await same([2, 5], (x) => op("DynamicQuantizeMatMul", [x, w, scale, zero, bias], {}, MS), real);
    await same(
      [2, 5],
      (x) => {
        const [q, step, point] = makeNode("DynamicQuantizeLinear", [x]).outputs;
        return op("MatMulIntegerToFloat", [q, w, step, scale, point, zero, bias], {}, MS);
      },
      real,
    );
    const b = input("b", "float32", [4]);
    const x = constant(tensor("float32", [2, 5], Array<number>(10).fill(1)));
    const y = op("DynamicQuantizeMatMul", [x, w, scale, zero, b], {}, MS);
    const [db] = gradients(ops.reduceSum(y, undefined, false), [b]) as [Value];
    const { out } = await evaluate(makeGraph("g", [b], [["out", db]]), {
      b: tensor("float32", [4], [0, 0, 0, 0]),
    });
    expect(Array.from(out?.data as Float32Array)).toEqual([2, 2, 2, 2]);
  });
  test("weights are made floats for their own gradient only, and never folded", () => {
    const x = input("x", "float32", [2, 5]);
    const y = dynamic(x, (q, z) => op("MatMulInteger", [q, w, z, zero]), scale);
    const [dx] = gradients(ops.reduceSum(ops.square(y), undefined, false), [x]) as [Value];
    const node = nodesOf(makeGraph("g", [x], [["dx", dx]])).find((each) => each.op === "DequantizeLinear");
    expect(node?.inputs[0]).toBe(w);
    expect(node?.inputs[1]?.source.kind).toBe("node");
  });
});

describe("QuantizeLinear and DequantizeLinear", () => {
  const fake =
    (scale: Value, zero: Value, axis = 1) =>
    (x: Value) =>
      dequantise(op("QuantizeLinear", [x, scale, zero], { axis: { i: axis } }), scale, zero, axis);
  test("the gradient passes inside the range and stops where codes are cut", async () => {
    const x = input("x", "float32", [6]);
    const y = fake(number(0.5), number(0, "int8"))(x);
    const [dx] = gradients(ops.reduceSum(ops.mul(y, vector(1, 2, 3, 4, 5, 6)), undefined, false), [x]) as [
      Value,
    ];
    const feeds = { x: tensor("float32", [6], [-100, -64.2, -1.3, 0, 63.6, 70]) };
    const { out } = await evaluate(makeGraph("g", [x], [["out", dx]]), feeds);
    expect(Array.from(out?.data as Float32Array)).toEqual([0, 2, 3, 4, 5, 0]);
  });
  test("a trained scale gets the estimate of LSQ", async () => {
    const [x, s] = [input("x", "float32", [4]), input("s", "float32", [])];
    const y = fake(s, number(0, "int8"))(x);
    const [ds] = gradients(ops.reduceSum(y, undefined, false), [s]) as [Value];
    const values = [0.3, -1.7, 90, -90];
    const { out } = await evaluate(makeGraph("g", [x, s], [["out", ds]]), {
      x: tensor("float32", [4], values),
      s: tensor("float32", [], [0.5]),
    });
    // round(v) - v inside the range, the limit outside.
    const want = 1 - 0.6 + (-3 + 3.4) + 127 - 128;
    expect(out?.data[0]).toBeCloseTo(want, 4);
  });
  test.each([1, -1, 0])("per axis %i", async (axis) => {
    const channels = axis === 0 ? 2 : 3;
    const scale = vector(...[0.02, 0.5, 0.3].slice(0, channels));
    const zero = codes("uint8", [channels], [100, 150]);
    await same([2, 3], fake(scale, zero, axis), (x) => x, [-1, 1]);
  });
  test.each<[string, number[], Attrs]>([
    ["one scale", [], {}],
    ["per axis", [3], { axis: { i: 1 } }],
    ["per block", [2, 2, 4], { axis: { i: 1 }, block_size: { i: 2 } }],
  ])("the scale of DequantizeLinear, %s", async (_, shape, attrs) => {
    const [q, zero] = [codes("int8", [2, 3, 4]), codes("int8", shape, [-5, 5])];
    await checkGradients(compile, {
      operands: [{ shape }],
      build: (s) => op("DequantizeLinear", [q, s, zero], attrs),
      precision: "exact32",
      tolerance: 1e-4,
    });
  });
  test("codes that are moved on the way", async () => {
    const [scale, zero] = [number(0.02), number(128, "uint8")];
    const moved = (x: Value) => {
      const turned = ops.transpose(ops.reshape(x, [2, 2, 4, 4]), [0, 1, 3, 2]);
      const pool = op("MaxPool", [turned], { kernel_shape: { ints: [2, 2] }, strides: { ints: [2, 2] } });
      const both = ops.concat([pool, pool], 1);
      return ops.slice(ops.gather(both, ops.ints([3, 0]), 1), 2, 0, 1);
    };
    await same([2, 32], (x) => dequantise(moved(op("QuantizeLinear", [x, scale, zero])), scale, zero), moved);
  });
  test("codes that are resized and rearranged on the way", async () => {
    const [scale, zero] = [number(0.02), number(128, "uint8")];
    const moved = (x: Value) => {
      const large = op("Resize", [x, undefined, vector(1, 1, 2, 2)], { mode: { s: "nearest" } });
      return op("SpaceToDepth", [large], { blocksize: { i: 4 } });
    };
    const to = (x: Value) => dequantise(moved(op("QuantizeLinear", [x, scale, zero])), scale, zero);
    await same([1, 1, 4, 4], to, moved);
    const lower = ["Resize", "SpaceToDepth"];
    const operands: Operand[] = [{ shape: [1, 1, 4, 4], range: [-1, 1] }];
    expect(
      await compareDecomposition(compile, { operands, build: (x) => to(x as Value), lower }),
    ).toBeLessThan(1e-6);
  });
  test("a cast of a float to an integer still stops", async () => {
    const [got, want] = await both(
      [4],
      (x) => ops.add(ops.cast(ops.cast(x, "int32"), "float32"), x),
      (x) => x,
    );
    expect(got).toEqual(want);
  });
});

test("DynamicQuantizeLSTM has the gradient of the LSTM over its dequantised weights", async () => {
  const [w, r] = [codes("int8", [1, 3, 8], [-40, 40]), codes("int8", [1, 2, 8], [-40, 40])];
  const [scale, zero] = [vector(0.02), constant(tensor("int8", [1], [3]))];
  const attrs: Attrs = { hidden_size: { i: 2 } };
  const gaps = Array<undefined>(5).fill(undefined);
  const plain = (q: Value) => ops.transposeLast(dequantise(q, ops.reshape(scale, []), ops.reshape(zero, [])));
  await same(
    [4, 1, 3],
    (x) => op("DynamicQuantizeLSTM", [x, w, r, ...gaps, scale, zero, scale, zero], attrs, MS),
    (x) => op("LSTM", [x, plain(w), plain(r)], attrs),
  );
});

describe("operators over codes", () => {
  const q = (dtype: Dtype, shape: number[]): Operand => ({
    shape,
    dtype,
    values: drawValues(random, shape, dtype === "int8" ? [-127, 127] : [0, 255], true),
  });
  const [s, z] = [number(0.05), number(128, "uint8")];
  const [t, y] = [number(0.03), number(120, "uint8")];
  const [out, outZero] = [number(0.1), number(100, "uint8")];
  // Processors without VNNI add pairs of products in 16 bits: signed weights of 7 bits do not overflow there.
  const filter = codes("int8", [4, 2, 3, 3], [-63, 63]);
  const perChannel = vector(0.01, 0.02, 0.03, 0.04);
  const none = constant(tensor("int8", [4], [0, 0, 0, 0]));
  const bias = codes("int32", [4], [-50, 50]);
  const conv: Attrs = { pads: { ints: [1, 1, 1, 1] } };
  const window: Attrs = { kernel_shape: { ints: [2, 2] }, strides: { ints: [2, 2] } };
  const real = (x: Value) => dequantise(op("QuantizeLinear", [x, s, z]), s, z);
  const quantised = (x: Value) => op("QuantizeLinear", [x, s, z]);
  const cases: [string, number[], (x: Value) => Value, (x: Value) => Value][] = [
    [
      "QLinearConv",
      [1, 2, 4, 4],
      (x) => op("QLinearConv", [x, s, z, filter, perChannel, none, number(0.5), outZero, bias], conv),
      (x) => op("Conv", [x, dequantise(filter, perChannel, none, 0)], conv),
    ],
    [
      "QLinearMatMul",
      [2, 5],
      (x) => op("QLinearMatMul", [x, s, z, codes5, t, y, number(0.4), outZero]),
      (x) => ops.matmul(x, dequantise(codes5, t, y)),
    ],
    [
      "QGemm",
      [2, 5],
      (x) =>
        op(
          "QGemm",
          [x, s, z, turned, perChannel, none, bias, number(0.2), outZero],
          { transB: { i: 1 } },
          MS,
        ),
      (x) => ops.matmul(x, ops.transposeLast(dequantise(turned, perChannel, none, 0))),
    ],
    ["QLinearAdd", [2, 3], (x) => op("QLinearAdd", [x, s, z, other, t, y, out, outZero], {}, MS), (x) => x],
    [
      "QLinearMul",
      [2, 3],
      (x) => op("QLinearMul", [x, s, z, other, t, y, number(0.5), outZero], {}, MS),
      (x) => ops.mul(x, dequantise(other, t, y)),
    ],
    [
      "QLinearSigmoid",
      [2, 3],
      (x) => op("QLinearSigmoid", [x, s, z, number(0.01), number(0, "uint8")], {}, MS),
      (x) => ops.sigmoid(ops.customVjp(real(x), [x], [], (_, dy) => [dy])),
    ],
    [
      "QLinearLeakyRelu",
      [2, 3],
      (x) => op("QLinearLeakyRelu", [x, s, z, out, outZero], { alpha: { f: 0.2 } }, MS),
      (x) => op("LeakyRelu", [x], { alpha: { f: 0.2 } }),
    ],
    [
      "QLinearGlobalAveragePool",
      [1, 3, 2, 2],
      (x) => op("QLinearGlobalAveragePool", [x, s, z, out, outZero], {}, MS),
      (x) => op("GlobalAveragePool", [x]),
    ],
    [
      "QLinearAveragePool",
      [1, 3, 4, 4],
      (x) => op("QLinearAveragePool", [x, s, z, out, outZero], window, MS),
      (x) => op("AveragePool", [x], window),
    ],
    [
      "QLinearConcat",
      [2, 3],
      (x) => op("QLinearConcat", [out, outZero, x, s, z, other, t, y], { axis: { i: 1 } }, MS),
      (x) => ops.concat([x, ops.full([2, 3], 0, "float32")], 1),
    ],
  ];
  const codes5 = codes("uint8", [5, 4]);
  const turned = codes("int8", [4, 5], [-63, 63]);
  const other = codes("uint8", [2, 3], [100, 150]);
  test.each(cases)("%s: one code off at most, and the float gradient", async (name, shape, build, float) => {
    const lower = [`com.microsoft.${name}`, name];
    const difference = await compareDecomposition(compile, { operands: [q("uint8", shape)], build, lower });
    expect(difference).toBeLessThanOrEqual(1);
    const scale = build(quantised(ops.full(shape, 0, "float32"))).source;
    const step = scale.kind === "node" ? outputScale(name, scale.node.inputs) : undefined;
    const to = (x: Value) => dequantise(build(quantised(x)), step?.[0] as Value, step?.[1]);
    await same(shape, to, float, [-1, 1]);
  });
  /** Where the operators list the scale and zero point of their result. */
  function outputScale(name: string, inputs: readonly (Value | undefined)[]) {
    const at =
      { QLinearConv: 6, QLinearMatMul: 6, QGemm: 7, QLinearAdd: 6, QLinearMul: 6, QLinearConcat: 0 }[name] ??
      3;
    return [inputs[at], inputs[at + 1]];
  }
});
