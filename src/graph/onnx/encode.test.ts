import { fromBinary, toBinary } from "@bufbuild/protobuf";
import * as ort from "onnxruntime-node";
import { expect, test } from "vitest";
import { tensor } from "../../tensor/index.js";
import { constant, input, makeGraph, makeNode, ops, scope } from "../index.js";
import { encodeGraph } from "./encode.js";
import { ModelProtoSchema } from "./generated/onnx_pb.js";

const decode = (bytes: Uint8Array) => fromBinary(ModelProtoSchema, bytes);
const f32 = (shape: number[], values: number[]) => tensor("float32", shape, Float32Array.from(values));

async function run(model: Uint8Array, feeds: Record<string, ort.Tensor>) {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 });
  return session.run(feeds);
}

test("a graph with scopes, constants and symbolic dims runs in ONNX Runtime", async () => {
  const x = input("x", "float32", ["n", 2]);
  const w = constant(f32([2, 2], [1, 2, 3, 4]), "model.layers.0.q_proj.weight");
  const y = scope("model.layers.0.q_proj", () => ops.gemm(x, w, undefined, { transB: true }));
  const bytes = encodeGraph(makeGraph("main", [x], [["y", ops.relu(ops.sub(y, 4))]]));
  const { y: out } = await run(bytes, { x: new ort.Tensor("float32", [1, 1, 0, 2], [2, 2]) });
  expect(out?.data).toEqual(Float32Array.of(0, 3, 0, 4));
  const model = decode(bytes);
  expect(model.graph?.node.map((node) => node.name)).toEqual([
    "/model/layers.0/q_proj/Gemm",
    "/Sub",
    "/Relu",
  ]);
  expect(model.graph?.initializer.map((item) => item.name)).toEqual([
    "model.layers.0.q_proj.weight",
    "constant_1",
  ]);
  expect(model.graph?.input[0]?.type?.value).toMatchObject({
    value: { shape: { dim: [{ value: { value: "n" } }, { value: { value: 2n } }] } },
  });
});

test("the bytes are those a protobuf library writes", () => {
  const x = input("x", "float32", ["n", 2]);
  const y = ops.customVjp(ops.matmul(x, constant(f32([2, 2], [1, 2, 3, 4]))), [x], [], (_, dy) => [dy]);
  const bytes = encodeGraph(makeGraph("main", [x], [["y", y]]), {
    metadata: { license: "MIT" },
    docString: "doc",
  });
  expect(toBinary(ModelProtoSchema, decode(bytes))).toEqual(bytes);
  expect(decode(bytes).graph?.node.map((node) => node.opType)).toEqual(["MatMul"]);
});

test("inputs, constants and repeated values become outputs through Identity", async () => {
  const x = input("x", "float32", [2]);
  const c = constant(f32([2], [5, 6]), "c");
  const y = ops.neg(x);
  const graph = makeGraph(
    "main",
    [x],
    [
      ["a", y],
      ["b", y],
      ["c", c],
      ["same", x],
    ],
  );
  const result = await run(encodeGraph(graph), { x: new ort.Tensor("float32", [1, 2], [2]) });
  expect(
    Object.fromEntries(
      Object.entries(result).map(([name, value]) => [name, [...(value.data as Float32Array)]]),
    ),
  ).toEqual({
    a: [-1, -2],
    b: [-1, -2],
    c: [5, 6],
    same: [1, 2],
  });
});

test("names are kept when unique and suffixed when not", () => {
  const x = input("x", "float32", [2]);
  const [a, b] = [constant(f32([2], [1, 2]), "w"), constant(f32([2], [3, 4]), "w")];
  const model = decode(encodeGraph(makeGraph("main", [x], [["y", ops.add(ops.mul(x, a), b)]])));
  expect(model.graph?.initializer.map((item) => item.name)).toEqual(["w", "w_1"]);
});

test("sub-graphs capture outer values and constants", async () => {
  const x = input("x", "float32", [2]);
  const flag = input("flag", "bool", []);
  const outer = ops.exp(x);
  const w = constant(f32([2], [10, 20]), "w");
  const branch = (name: string, value: ReturnType<typeof ops.exp>) => ({
    ...makeGraph(name, [], [["out", value]]),
    captures: [outer],
  });
  const node = makeNode("If", [flag], {
    then_branch: { g: branch("yes", ops.add(outer, w)) },
    else_branch: { g: branch("no", outer) },
  });
  const bytes = encodeGraph(makeGraph("main", [x, flag], [["y", node.outputs[0] as never]]));
  const feed = (value: boolean) => ({
    x: new ort.Tensor("float32", [0, 0], [2]),
    flag: new ort.Tensor("bool", [value], []),
  });
  expect((await run(bytes, feed(true))).y?.data).toEqual(Float32Array.of(11, 21));
  expect((await run(bytes, feed(false))).y?.data).toEqual(Float32Array.of(1, 1));
});

test("bad graphs are refused with the name in the message", () => {
  const x = input("x", "float32", [2]);
  const z = input("z", "float32", [2]);
  expect(() => encodeGraph(makeGraph("g", [x], [["y", ops.add(x, z)]]))).toThrow(/reads input 'z'/);
  expect(() => encodeGraph(makeGraph("g", [x], [["x", ops.neg(x)]]))).toThrow(/'x' stands twice/);
});

test("an input with a value of its own need not be fed", async () => {
  const x = input("x", "float32", [2]);
  const w = input("w", "float32", [2]);
  const bytes = encodeGraph(makeGraph("main", [x, w], [["y", ops.mul(x, w)]]), {
    defaults: new Map([[w, f32([2], [3, 4])]]),
  });
  const { graph } = decode(bytes);
  expect(graph?.input.map(({ name }) => name)).toEqual(["x", "w"]);
  expect(graph?.initializer.map(({ name }) => name)).toEqual(["w"]);
  const { y } = await run(bytes, { x: new ort.Tensor("float32", [1, 2], [2]) });
  expect(y?.data).toEqual(Float32Array.of(3, 8));
});
