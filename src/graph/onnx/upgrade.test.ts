import { readFileSync } from "node:fs";
import { create, toBinary } from "@bufbuild/protobuf";
import * as ort from "onnxruntime-node";
import { expect, test } from "vitest";
import { openBytes } from "#io";
import { type Dtype, type Tensor, tensor } from "../../tensor/index.js";
import { encodeGraph, loadOnnx, nodesOf } from "../index.js";
import type { Attr } from "../types.js";
import { introduced } from "./encode.js";
import { type ModelProto, ModelProtoSchema } from "./generated/onnx_pb.js";
import { attributeMessage, tensorMessage, valueInfo } from "./messages.js";
import { upgradedBelow } from "./upgrade.js";

interface OldNode {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly attrs?: Record<string, Attr>;
}

interface Old {
  readonly opset: number;
  readonly input: readonly number[];
  readonly dtype?: Dtype;
  readonly node: OldNode;
  readonly constants?: Record<string, Tensor>;
  /** Operators that must be gone or there after the upgrade. */
  readonly expected: readonly string[];
}

/** A model as an exporter of that time wrote it: one node from `x` to `y`. */
function oldModel({ opset, input, dtype = "float32", node, constants = {} }: Old): ModelProto {
  const attribute = Object.entries(node.attrs ?? {}).map(([name, attr]) =>
    attributeMessage(name, attr, node.op, () => {
      throw new Error("no sub-graphs here");
    }),
  );
  return create(ModelProtoSchema, {
    irVersion: 4n,
    opsetImport: [{ domain: "", version: BigInt(opset) }],
    graph: {
      name: "old",
      node: [
        {
          opType: node.op,
          input: [...node.inputs],
          output: node.op === "TopK" ? ["y", "at"] : ["y"],
          attribute,
        },
      ],
      initializer: Object.entries(constants).map(([name, data]) => tensorMessage(data, name)),
      input: [valueInfo("x", dtype, input)],
      output: [{ name: "y", type: { value: { case: "tensorType" as const, value: { elemType: 1 } } } }],
    },
  });
}

const x234 = [2, 3, 4];
const ints = (...values: number[]): Attr => ({ ints: values });
const CASES: (Old & { title: string })[] = [
  {
    title: "Softmax over trailing axes",
    opset: 11,
    input: x234,
    node: { op: "Softmax", inputs: ["x"] },
    expected: ["Flatten", "Softmax", "Shape", "Reshape"],
  },
  {
    title: "LogSoftmax on the last axis",
    opset: 9,
    input: x234,
    node: { op: "LogSoftmax", inputs: ["x"], attrs: { axis: { i: 2 } } },
    expected: ["LogSoftmax"],
  },
  {
    title: "Unsqueeze axes",
    opset: 11,
    input: x234,
    node: { op: "Unsqueeze", inputs: ["x"], attrs: { axes: ints(0, 2) } },
    expected: ["Unsqueeze"],
  },
  {
    title: "Squeeze axes",
    opset: 11,
    input: [1, 3, 1],
    node: { op: "Squeeze", inputs: ["x"], attrs: { axes: ints(-1) } },
    expected: ["Squeeze"],
  },
  {
    title: "ReduceSum axes",
    opset: 11,
    input: x234,
    node: { op: "ReduceSum", inputs: ["x"], attrs: { axes: ints(1), keepdims: { i: 0 } } },
    expected: ["ReduceSum"],
  },
  {
    title: "ReduceMean axes",
    opset: 13,
    input: x234,
    node: { op: "ReduceMean", inputs: ["x"], attrs: { axes: ints(-1, 0) } },
    expected: ["ReduceMean"],
  },
  {
    title: "Clip attributes",
    opset: 6,
    input: x234,
    node: { op: "Clip", inputs: ["x"], attrs: { min: { f: -0.25 }, max: { f: 0.25 } } },
    expected: ["Clip"],
  },
  {
    title: "Clip with one bound",
    opset: 9,
    input: x234,
    node: { op: "Clip", inputs: ["x"], attrs: { min: { f: 0 } } },
    expected: ["Clip"],
  },
  {
    title: "Dropout",
    opset: 7,
    input: x234,
    node: { op: "Dropout", inputs: ["x"], attrs: { ratio: { f: 0.9 } } },
    expected: [],
  },
  {
    title: "Slice attributes",
    opset: 9,
    input: x234,
    node: {
      op: "Slice",
      inputs: ["x"],
      attrs: { starts: ints(1, -3), ends: { ints: [2, 2n ** 63n - 1n] }, axes: ints(1, 2) },
    },
    expected: ["Slice"],
  },
  {
    title: "Pad attributes",
    opset: 9,
    input: x234,
    node: { op: "Pad", inputs: ["x"], attrs: { pads: ints(0, 1, 0, 0, 0, 2), value: { f: 3 } } },
    expected: ["Pad"],
  },
  {
    title: "TopK attribute",
    opset: 9,
    input: x234,
    node: { op: "TopK", inputs: ["x"], attrs: { k: { i: 2 } } },
    expected: ["TopK"],
  },
  {
    title: "Split attribute",
    opset: 11,
    input: x234,
    node: { op: "Split", inputs: ["x"], attrs: { axis: { i: 2 }, split: ints(4) } },
    expected: ["Split"],
  },
  {
    title: "Upsample scales attribute",
    opset: 7,
    input: [1, 1, 2, 3],
    node: {
      op: "Upsample",
      inputs: ["x"],
      attrs: { mode: { s: "nearest" }, scales: { floats: [1, 1, 2, 3] } },
    },
    expected: ["Resize"],
  },
  {
    title: "Upsample linear",
    opset: 9,
    input: [1, 1, 2, 3],
    node: { op: "Upsample", inputs: ["x", "s"], attrs: { mode: { s: "linear" } } },
    constants: { s: tensor("float32", [4], [1, 1, 2, 2]) },
    expected: ["Resize"],
  },
  {
    title: "Resize of opset 10",
    opset: 10,
    input: [1, 1, 3, 3],
    node: { op: "Resize", inputs: ["x", "s"], attrs: { mode: { s: "linear" } } },
    constants: { s: tensor("float32", [4], [1, 1, 1.5, 2]) },
    expected: ["Resize"],
  },
  {
    title: "BatchNormalization of opset 9",
    opset: 9,
    input: [2, 3, 2, 2],
    node: { op: "BatchNormalization", inputs: ["x", "a", "b", "b", "a"] },
    constants: { a: tensor("float32", [3], [1, 2, 3]), b: tensor("float32", [3], [0, 1, -1]) },
    expected: ["BatchNormalization"],
  },
  {
    title: "BatchNormalization of every position for itself",
    opset: 7,
    input: [2, 3, 2],
    node: { op: "BatchNormalization", inputs: ["x", "a", "b", "b", "a"], attrs: { spatial: { i: 0 } } },
    constants: {
      a: tensor("float32", [3, 2], [1, 2, 3, 4, 5, 6]),
      b: tensor("float32", [3, 2], [0, 1, -1, 2, 0, 1]),
    },
    expected: ["Sqrt"],
  },
  ...["round_prefer_floor", "floor", "ceil"].map((rounding) => ({
    title: `Resize with tf_half_pixel_for_nn, ${rounding}`,
    opset: 11,
    input: [1, 2, 3, 4],
    node: {
      op: "Resize",
      inputs: ["x", "e", "s"],
      attrs: {
        coordinate_transformation_mode: { s: "tf_half_pixel_for_nn" },
        nearest_mode: { s: rounding },
      },
    },
    constants: { e: tensor("float32", [0], []), s: tensor("float32", [4], [1, 1, 2, 1.5]) },
    expected: ["Gather"],
  })),
  {
    title: "PRelu with a channel slope",
    opset: 7,
    input: [2, 3, 2, 2],
    node: { op: "PRelu", inputs: ["x", "a"] },
    constants: { a: tensor("float32", [3, 1, 1], [1, 2, 3]) },
    expected: ["PRelu"],
  },
  {
    title: "GroupNormalization of opset 18",
    opset: 18,
    input: [1, 4, 2, 2],
    node: { op: "GroupNormalization", inputs: ["x", "a", "b"], attrs: { num_groups: { i: 2 } } },
    constants: { a: tensor("float32", [2], [1, 2]), b: tensor("float32", [2], [0, 1]) },
    expected: ["GroupNormalization"],
  },
  {
    title: "GridSample names",
    opset: 16,
    input: [1, 1, 3, 3],
    node: { op: "GridSample", inputs: ["x", "g"], attrs: { mode: { s: "bicubic" } } },
    constants: { g: tensor("float32", [1, 1, 2, 2], [0, 0.5, -0.3, 0.1]) },
    expected: ["GridSample"],
  },
  {
    title: "Scatter",
    opset: 9,
    input: x234,
    node: { op: "Scatter", inputs: ["x", "i", "u"], attrs: { axis: { i: 2 } } },
    constants: { i: tensor("int64", [1, 1, 1], [2]), u: tensor("float32", [1, 1, 1], [9]) },
    expected: ["ScatterElements"],
  },
];

test.each(CASES)("$title keeps its meaning", async (old) => {
  const bytes = toBinary(ModelProtoSchema, oldModel(old));
  const { graph } = await loadOnnx(openBytes(bytes, "old.onnx"));
  const feeds = {
    x: new ort.Tensor(
      "float32",
      Float32Array.from({ length: old.input.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * 1.7)),
      [...old.input],
    ),
  };
  const ops = nodesOf(graph).map((node) => node.op);
  for (const name of old.expected) expect(ops).toContain(name);
  if (old.expected.length === 0) expect(ops).toEqual([]);
  const upgraded = await (await ort.InferenceSession.create(encodeGraph(graph), { logSeverityLevel: 3 })).run(
    feeds,
  );
  const original = await (await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 })).run(feeds);
  expect(upgraded.y?.dims).toEqual(original.y?.dims);
  expect(graph.outputs.get("y")?.shape).toEqual(original.y?.dims);
  const [got, want] = [upgraded, original].map(({ y }) => Array.from((y?.data ?? []) as Float32Array));
  for (const [i, value] of (want ?? []).entries()) expect(got?.[i]).toBeCloseTo(value, 5);
});

test("broadcasting on request of opset 6 aligns from the left", async () => {
  const old: Old = {
    opset: 6,
    input: [2, 3, 2],
    node: { op: "Add", inputs: ["x", "b"], attrs: { broadcast: { i: 1 }, axis: { i: 1 } } },
    constants: { b: tensor("float32", [3], [10, 20, 30]) },
    expected: [],
  };
  const { graph } = await loadOnnx(openBytes(toBinary(ModelProtoSchema, oldModel(old)), "old.onnx"));
  const session = await ort.InferenceSession.create(encodeGraph(graph), { logSeverityLevel: 3 });
  const { y } = await session.run({ x: new ort.Tensor("float32", new Float32Array(12), [2, 3, 2]) });
  expect(Array.from(y?.data as Float32Array)).toEqual([10, 10, 20, 20, 30, 30, 10, 10, 20, 20, 30, 30]);
});

test("what cannot be upgraded is refused", async () => {
  const old: Old = {
    opset: 12,
    input: [1, 1, 3, 3],
    node: {
      op: "Resize",
      inputs: ["x", "e", "x"],
      attrs: { coordinate_transformation_mode: { s: "tf_half_pixel_for_nn" } },
    },
    constants: { e: tensor("float32", [0], []) },
    expected: [],
  };
  const loading = loadOnnx(openBytes(toBinary(ModelProtoSchema, oldModel(old)), "old.onnx"));
  await expect(loading).rejects.toMatchObject({ code: "attribute-unsupported" });
});

test("what opset 23 and later added is written in opset 21", async () => {
  const run = async (node: OldNode, input: readonly number[], dtype: Dtype, constants = {}) => {
    const model = oldModel({ opset: 28, input, dtype, node, constants, expected: [] });
    const { graph } = await loadOnnx(openBytes(toBinary(ModelProtoSchema, model), "new.onnx"));
    const values = Array.from({ length: input.reduce((a, b) => a * b, 1) }, (_, at) => at);
    const data = dtype === "int8" ? Int8Array.from(values) : Float32Array.from(values);
    const session = await ort.InferenceSession.create(encodeGraph(graph), { logSeverityLevel: 3 });
    const { y } = await session.run({
      x: new ort.Tensor(dtype as "float32", data as Float32Array, [...input]),
    });
    return Array.from(y?.data as Float32Array);
  };
  const half = { s: tensor("float16", [], [0.5]) };
  const typed = { op: "DequantizeLinear", inputs: ["x", "s"], attrs: { output_dtype: { i: 1 } } };
  expect(await run(typed, [4], "int8", half)).toEqual([0, 0.5, 1, 1.5]);
  const channels = (mode: string) => ({
    op: "SpaceToDepth",
    inputs: ["x"],
    attrs: { blocksize: { i: 2 }, mode: { s: mode } },
  });
  expect(await run(channels("DCR"), [1, 2, 2, 2], "float32")).toEqual([0, 4, 1, 5, 2, 6, 3, 7]);
  expect(await run(channels("CRD"), [1, 2, 2, 2], "float32")).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  const rounding = { op: "Cast", inputs: ["x"], attrs: { to: { i: 1 }, round_mode: { s: "up" } } };
  expect(await run(rounding, [2], "float32")).toEqual([0, 1]);
});

test("a model that was exported while training keeps training", async () => {
  const constants = { a: tensor("float32", [3], [1, 2, 3]), b: tensor("float32", [3], [0, 1, -1]) };
  const model = oldModel({
    opset: 9,
    input: [2, 3, 2, 2],
    node: { op: "BatchNormalization", inputs: ["x", "a", "b", "b", "a"] },
    constants,
    expected: [],
  });
  model.graph?.node[0]?.output.push("mean", "variance", "saved_mean", "saved_variance");
  const bytes = toBinary(ModelProtoSchema, model);
  const { graph } = await loadOnnx(openBytes(bytes, "old.onnx"));
  const x = new ort.Tensor(
    "float32",
    Float32Array.from({ length: 24 }, (_, i) => Math.sin(i)),
    [2, 3, 2, 2],
  );
  const run = async (file: Uint8Array) =>
    (await (await ort.InferenceSession.create(file, { logSeverityLevel: 3 })).run({ x })).y;
  const [got, want] = [await run(encodeGraph(graph)), await run(bytes)];
  for (const [at, value] of Array.from(want?.data as Float32Array).entries())
    expect(got?.data[at]).toBeCloseTo(value, 4);
});

interface Change {
  readonly op: string;
  readonly version: number;
  readonly changes: readonly string[];
}

/** Attributes whose default is what the operator did before. */
const NEUTRAL = new Set(
  `select_last_index ceil_mode dilations layout batch_dims saturate stash_type block_size output_dtype
  noop_with_empty_axes allowzero antialias keep_aspect_ratio_policy reduction start end storage_order largest sorted
  sparse_value value_float value_floats value_int value_ints value_string value_strings`.split(/\s+/),
);

/** Changes that leave every older node valid, with the same meaning. */
const COMPATIBLE: Readonly<Record<string, string>> = {
  "BatchNormalization 9": "by the rule of opset 14",
  "Split 13": "by the rule of opset 18",
  "DepthToSpace 11": "the default mode is the old order",
  "DequantizeLinear 13": "an axis, read for more than one scale only, which there could not be before",
  "QuantizeLinear 13": "likewise",
  "Constant 11": "the value may be given in other attributes",
  "Gemm 11": "C may be left out",
  "MaxPool 8": "a second output",
  "OptionalHasElement 18": "the input may be left out",
  "Pad 18": "an optional input",
  "Resize 18": "axes default to all",
  "Attention 24": "an optional input; files with it are written at its operator set",
  "Attention 25": "optional attributes; files with them are written at their operator set",
};

test("every change of an operator since opset 7 is handled or harmless", () => {
  const file = new URL("../../../fixtures/onnx/opset-changes.json", import.meta.url);
  const { changes } = JSON.parse(readFileSync(file, "utf8")) as { changes: Change[] };
  const open = changes.filter(({ op, version, changes: what }) => {
    const handled = upgradedBelow(op).some(
      (below) => below === version || below === Number.POSITIVE_INFINITY,
    );
    const neutral = version <= 21 && what.every((change) => NEUTRAL.has(change.replace(/^\+/, "")));
    return !handled && !neutral && COMPATIBLE[`${op} ${version}`] === undefined;
  });
  expect(open).toEqual([]);
  expect(changes.length).toBeGreaterThan(60);
  expect(introduced({ op: "Attention", inputs: [], attrs: { left_window_size: { i: 2 } } })).toBe(25);
});
