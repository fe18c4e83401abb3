import * as ort from "onnxruntime-node";
import { expect, test } from "vitest";
import { arrayOf, type Dtype, type NumericData, tensor } from "../../tensor/index.js";
import { bindDim, constant, encodeGraph, input, makeGraph, makeNode, ops } from "../index.js";
import type { Attrs, Node, Value } from "../types.js";

/** Inputs of a case: `name: [dtype, axes]`; an axis `"n=3"` is symbolic and 3 long at run time. */
type Inputs = Record<string, readonly [Dtype, readonly (number | string)[]]>;

interface Case {
  readonly title: string;
  readonly inputs: Inputs;
  readonly build: (values: Record<string, Value>) => Node;
}

const i = (value: number) => ({ i: value });
const f32 = (shape: number[]) =>
  constant(tensor("float32", shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5)));
const filled = (dtype: Dtype, shape: number[], value: number) => {
  const data = new (arrayOf(dtype))(shape.reduce((a, b) => a * b, 1));
  data.fill((dtype === "int64" ? BigInt(value) : value) as never);
  return constant(tensor(dtype, shape, data));
};
const ms = { domain: "com.microsoft" };

function simple(
  op: string,
  inputs: Inputs,
  attrs: Attrs = {},
  options: { domain?: string; outputs?: number } = {},
): Case {
  const title = `${op} ${JSON.stringify(Object.values(inputs).map(([, shape]) => shape))} ${JSON.stringify(Object.keys(attrs))}`;
  return {
    title,
    inputs,
    build: (v) =>
      makeNode(
        op,
        Object.keys(inputs).map((name) => v[name]),
        attrs,
        options,
      ),
  };
}

const image = { x: ["float32", ["n=2", 4, 9, 11]] } as const satisfies Inputs;
const CASES: Case[] = [
  {
    title: "Conv auto_pad",
    inputs: image,
    build: (v) =>
      makeNode("Conv", [v.x, f32([6, 2, 3, 3])], {
        group: i(2),
        auto_pad: { s: "SAME_UPPER" },
        strides: { ints: [2, 2] },
      }),
  },
  {
    title: "Conv dilated, symbolic space",
    inputs: { x: ["float32", [1, 4, "h=9", "w=12"]] },
    build: (v) =>
      makeNode("Conv", [v.x, f32([5, 4, 3, 2])], {
        dilations: { ints: [2, 1] },
        pads: { ints: [1, 0, 2, 1] },
        strides: { ints: [2, 3] },
      }),
  },
  {
    title: "ConvTranspose",
    inputs: image,
    build: (v) =>
      makeNode("ConvTranspose", [v.x, f32([4, 3, 3, 3])], {
        strides: { ints: [2, 2] },
        output_padding: { ints: [1, 0] },
        pads: { ints: [1, 1, 0, 0] },
        group: i(2),
      }),
  },
  {
    title: "ConvTranspose output_shape",
    inputs: { x: ["float32", [1, 4, 5, 5]] },
    build: (v) =>
      makeNode("ConvTranspose", [v.x, f32([4, 3, 3, 3])], {
        strides: { ints: [2, 2] },
        output_shape: { ints: [12, 10] },
      }),
  },
  simple(
    "MaxPool",
    image,
    { kernel_shape: { ints: [3, 2] }, strides: { ints: [2, 2] }, ceil_mode: i(1) },
    { outputs: 2 },
  ),
  simple("AveragePool", image, {
    kernel_shape: { ints: [3, 3] },
    pads: { ints: [1, 1, 1, 1] },
    strides: { ints: [2, 1] },
  }),
  simple("GlobalAveragePool", image),
  simple("GlobalMaxPool", image),
  {
    title: "Resize scales",
    inputs: image,
    build: (v) =>
      makeNode("Resize", [v.x, undefined, constant(tensor("float32", [4], [1, 1, 2, 1.5]))], {
        mode: { s: "linear" },
      }),
  },
  {
    title: "Resize sizes",
    inputs: { x: ["float32", [1, 2, 4, 4]] },
    build: (v) =>
      makeNode("Resize", [v.x, undefined, undefined, ops.ints([1, 2, 7, 9])], { mode: { s: "nearest" } }),
  },
  {
    title: "GridSample",
    inputs: { x: ["float32", [2, 3, 5, 5]], grid: ["float32", [2, "h=4", 6, 2]] },
    build: (v) => makeNode("GridSample", [v.x, v.grid], { mode: { s: "linear" } }),
  },
  {
    title: "BatchNormalization",
    inputs: image,
    build: (v) => makeNode("BatchNormalization", [v.x, f32([4]), f32([4]), f32([4]), f32([4])]),
  },
  {
    title: "LSTM",
    inputs: { x: ["float32", ["t=5", 2, 3]] },
    build: (v) =>
      makeNode(
        "LSTM",
        [v.x, f32([2, 16, 3]), f32([2, 16, 4])],
        { hidden_size: i(4), direction: { s: "bidirectional" } },
        { outputs: 3 },
      ),
  },
  {
    title: "GRU",
    inputs: { x: ["float32", ["t=5", 2, 3]] },
    build: (v) =>
      makeNode("GRU", [v.x, f32([1, 12, 3]), f32([1, 12, 4])], { hidden_size: i(4) }, { outputs: 2 }),
  },
  simple("DepthToSpace", { x: ["float32", [1, 8, 3, "w=4"]] }, { blocksize: i(2) }),
  simple("SpaceToDepth", { x: ["float32", [1, 2, 4, 6]] }, { blocksize: i(2) }),
  {
    title: "Compress axis",
    inputs: { x: ["float32", [3, 2]] },
    build: (v) => makeNode("Compress", [v.x, constant(tensor("bool", [3], [1, 0, 1]))], { axis: i(0) }),
  },
  {
    title: "Compress data dependent",
    inputs: { x: ["float32", [6]], c: ["bool", [6]] },
    build: (v) => makeNode("Compress", [v.x, v.c]),
  },
  { title: "NonZero", inputs: { x: ["float32", [2, 3]] }, build: (v) => makeNode("NonZero", [v.x]) },
  {
    title: "Reshape to run-time shape",
    inputs: { x: ["float32", [6]], s: ["int64", [1]] },
    build: (v) =>
      makeNode("Reshape", [v.x, ops.concat([ops.mul(ops.add(v.s as Value, 5), 1), ops.ints([-1])], 0)]),
  },
  {
    title: "QuantizeLinear",
    inputs: { x: ["float32", ["n=2", 3]] },
    build: (v) => makeNode("QuantizeLinear", [v.x, filled("float32", [], 1), filled("int8", [], 0)]),
  },
  {
    title: "DequantizeLinear",
    inputs: { x: ["uint8", ["n=2", 3]] },
    build: (v) => makeNode("DequantizeLinear", [v.x, filled("float32", [], 1)]),
  },
  simple("DynamicQuantizeLinear", { x: ["float32", ["n=2", 3]] }),
  {
    title: "MatMulInteger",
    inputs: { a: ["uint8", ["n=2", 3]] },
    build: (v) => makeNode("MatMulInteger", [v.a, filled("uint8", [3, 5], 1)]),
  },
  {
    title: "ConvInteger",
    inputs: { x: ["uint8", [1, 2, 5, 5]] },
    build: (v) => makeNode("ConvInteger", [v.x, filled("uint8", [3, 2, 3, 3], 1)]),
  },
  {
    title: "QLinearMatMul",
    inputs: { a: ["uint8", [2, 3]] },
    build: (v) => {
      const [one, zero] = [filled("float32", [], 1), filled("uint8", [], 0)];
      return makeNode("QLinearMatMul", [v.a, one, zero, filled("uint8", [3, 4], 1), one, zero, one, zero]);
    },
  },
  {
    title: "MatMulNBits",
    inputs: { x: ["float32", ["n=2", 3, 32]] },
    build: (v) =>
      makeNode(
        "MatMulNBits",
        [v.x, filled("uint8", [8, 1, 16], 136), f32([8])],
        { K: i(32), N: i(8), bits: i(4), block_size: i(32) },
        ms,
      ),
  },
  {
    title: "GatherBlockQuantized",
    inputs: { ids: ["int64", ["n=3"]] },
    build: (v) =>
      makeNode(
        "GatherBlockQuantized",
        [filled("uint8", [4, 16], 136), v.ids, f32([4, 2])],
        { gather_axis: i(0), quantize_axis: i(1), block_size: i(16), bits: i(4) },
        ms,
      ),
  },
  {
    title: "SkipLayerNormalization",
    inputs: { x: ["float32", ["n=2", 3, 8]], s: ["float32", ["n=2", 3, 8]] },
    build: (v) =>
      makeNode(
        "SkipLayerNormalization",
        [v.x, v.s, f32([8])],
        { epsilon: { f: 1e-5 } },
        { ...ms, outputs: 4 },
      ),
  },
  {
    title: "Attention",
    inputs: { x: ["float32", ["n=2", 3, 8]] },
    build: (v) =>
      makeNode("Attention", [v.x, f32([8, 24]), f32([24])], { num_heads: i(2) }, { ...ms, outputs: 1 }),
  },
  {
    title: "Attention with past",
    inputs: { x: ["float32", ["n=2", 3, 8]], p: ["float32", [2, "n=2", 2, "t=5", 4]] },
    build: (v) =>
      makeNode(
        "Attention",
        [v.x, f32([8, 24]), f32([24]), undefined, v.p],
        { num_heads: i(2), unidirectional: i(1) },
        { ...ms, outputs: 2 },
      ),
  },
  {
    title: "MultiHeadAttention",
    inputs: { q: ["float32", ["n=2", 3, 8]], k: ["float32", ["n=2", "t=5", 8]] },
    build: (v) => makeNode("MultiHeadAttention", [v.q, v.k, v.k], { num_heads: i(2) }, { ...ms, outputs: 1 }),
  },
  {
    title: "RotaryEmbedding",
    inputs: { x: ["float32", ["n=2", 3, 8]], p: ["int64", [1]] },
    build: (v) =>
      makeNode("RotaryEmbedding", [v.x, v.p, f32([16, 2]), f32([16, 2])], { num_heads: i(2) }, ms),
  },
  {
    title: "EmbedLayerNormalization",
    inputs: { ids: ["int32", ["n=2", 3]] },
    build: (v) =>
      makeNode(
        "EmbedLayerNormalization",
        [v.ids, undefined, f32([5, 8]), f32([6, 8]), undefined, f32([8]), f32([8])],
        {},
        { ...ms, outputs: 2 },
      ),
  },
  {
    title: "DFT",
    inputs: { x: ["float32", ["n=2", 8, 1]] },
    build: (v) => makeNode("DFT", [v.x, undefined, ops.scalar(1, "int64")], { onesided: i(1) }),
  },
  {
    title: "STFT",
    inputs: { x: ["float32", ["n=2", 20, 1]] },
    build: (v) => makeNode("STFT", [v.x, ops.scalar(4, "int64"), f32([8])]),
  },
  {
    title: "TopK",
    inputs: { x: ["float32", ["n=2", 5]] },
    build: (v) => makeNode("TopK", [v.x, ops.ints([3])]),
  },
  {
    title: "Slice with run-time bounds",
    inputs: { x: ["float32", [7, 2]], e: ["int64", [1]] },
    build: (v) =>
      makeNode("Slice", [v.x, ops.ints([0]), ops.mul(ops.add(v.e as Value, 3), 1), ops.ints([0])]),
  },
  {
    title: "Range, Tile, Expand",
    inputs: { x: ["float32", ["n=3", 1]] },
    build: (v) => makeNode("Expand", [ops.tile(v.x as Value, [2, 1]), ops.ints([1, 1, 4])]),
  },
];

test.each(CASES)("$title", async ({ title, inputs, build }) => {
  const open = /run-time|data dependent|NonZero/.test(title);
  const bindings: Record<string, number> = {};
  const values: Record<string, Value> = {};
  const feeds: Record<string, ort.Tensor> = {};
  for (const [name, [dtype, axes]] of Object.entries(inputs)) {
    const shape = axes.map((axis) => (typeof axis === "number" ? axis : (axis.split("=")[0] as string)));
    for (const axis of axes)
      if (typeof axis === "string") bindings[axis.split("=")[0] as string] = Number(axis.split("=")[1]);
    const dims = shape.map((dim) => Number(bindDim(dim, bindings)));
    values[name] = input(name, dtype, shape);
    const data: NumericData = new (arrayOf(dtype))(dims.reduce((a, b) => a * b, 1));
    for (let at = 0; at < data.length; at++)
      data[at] = (dtype === "int64" ? BigInt(at === 0 ? 1 : 0) : (at * 7) % 5) as never;
    feeds[name] = new ort.Tensor(dtype as "float32", data as Float32Array, dims);
  }
  const node = build(values);
  const outputs = node.outputs.map((value, index) => [`out${index}`, value] as const);
  const session = await ort.InferenceSession.create(
    encodeGraph(makeGraph("case", Object.values(values), outputs)),
    { logSeverityLevel: 3 },
  );
  const results = await session.run(feeds);
  for (const [name, value] of outputs) {
    const real = results[name];
    expect(real?.type).toBe(value.dtype);
    expect(value.shape.length).toBe(real?.dims.length);
    const bound = value.shape.map((dim, axis) => {
      const length = bindDim(dim, bindings);
      return typeof length === "number" || !open ? length : real?.dims[axis];
    });
    expect(bound).toEqual([...(real?.dims ?? [])]);
  }
});
