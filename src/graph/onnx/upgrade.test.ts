import { create, toBinary } from "@bufbuild/protobuf";
import * as ort from "onnxruntime-node";
import { expect, test } from "vitest";
import { openBytes } from "#io";
import { type Dtype, type Tensor, tensor } from "../../tensor/index.js";
import { encodeGraph, loadOnnx, nodesOf } from "../index.js";
import type { Attr } from "../types.js";
import { type ModelProto, ModelProtoSchema } from "./generated/onnx_pb.js";
import { attributeMessage, tensorMessage, valueInfo } from "./messages.js";

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
    opset: 7,
    input: [2, 3, 2, 2],
    node: { op: "BatchNormalization", inputs: ["x", "a", "a", "a", "a"], attrs: { spatial: { i: 0 } } },
    constants: { a: tensor("float32", [3], [1, 2, 3]) },
    expected: [],
  };
  const loading = loadOnnx(openBytes(toBinary(ModelProtoSchema, oldModel(old)), "old.onnx"));
  await expect(loading).rejects.toMatchObject({ code: "attribute-unsupported" });
});
