import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { openBytes } from "#io";
import { evaluate } from "../../runtime/index.js";
import { bytesOf, tensor } from "../../tensor/index.js";
import { encodeGraph, input, loadOnnx, makeGraph, nodesOf, op, ops } from "../index.js";
import { type ModelProto, ModelProtoSchema, TensorProtoSchema } from "./generated/onnx_pb.js";

const SIZE = 512;
const values = Array.from({ length: SIZE }, (_, at) => at / SIZE);

/** y = exp(-(x + w)), as an editable message. */
function model(): ModelProto {
  const x = input("x", "float32", [SIZE]);
  const y = ops.exp(ops.neg(op("Add", [x, ops.full([SIZE], 1, "float32")])));
  return fromBinary(ModelProtoSchema, encodeGraph(makeGraph("g", [x], [["y", y]])));
}

test("nodes in any order are sorted, those of branches counted", async () => {
  const message = model();
  const sorted = message.graph?.node.map((node) => node.opType);
  message.graph?.node.reverse();
  const { graph } = await loadOnnx(openBytes(toBinary(ModelProtoSchema, message), "m.onnx"));
  expect(nodesOf(graph).map((node) => node.op)).toEqual(sorted);
  const a = input("a", "float32", [2]);
  const hidden = ops.exp(a);
  const branch = (value: ReturnType<typeof ops.neg>) => ({
    g: { ...makeGraph("b", [], [["o", value]]), captures: [hidden] },
  });
  const flag = input("flag", "bool", []);
  const chosen = op("If", [flag], { then_branch: branch(ops.neg(hidden)), else_branch: branch(hidden) });
  const nested = fromBinary(ModelProtoSchema, encodeGraph(makeGraph("g", [flag, a], [["y", chosen]])));
  nested.graph?.node.reverse();
  const again = await loadOnnx(openBytes(toBinary(ModelProtoSchema, nested), "m.onnx"));
  const { y } = await evaluate(again.graph, {
    flag: tensor("bool", [], [1]),
    a: tensor("float32", [2], [0, 0]),
  });
  expect(Array.from(y?.data as Float32Array)).toEqual([-1, -1]);
});

test("a cycle is an error that names what is missing", async () => {
  const message = model();
  const [first] = message.graph?.node ?? [];
  const last = message.graph?.node.at(-1);
  if (first && last) first.input[0] = last.output[0] as string;
  await expect(loadOnnx(openBytes(toBinary(ModelProtoSchema, message), "m.onnx"))).rejects.toMatchObject({
    code: "graph-invalid",
  });
});

test("large weights whose location is written out behind them", async () => {
  const message = model();
  const weight = create(TensorProtoSchema, { name: "w", dims: [BigInt(SIZE)], dataType: 1 });
  weight.rawData = bytesOf(tensor("float32", [SIZE], values));
  // Field 14 as 0: the default, which some writers write. An unknown field of the message keeps its bytes and place.
  weight.$unknown = [{ no: 14, wireType: 0, data: Uint8Array.of(0) }];
  const add = message.graph?.node.find((node) => node.opType === "Add");
  if (add) add.input[1] = "w";
  message.graph?.initializer.push(weight);
  const { graph } = await loadOnnx(openBytes(toBinary(ModelProtoSchema, message), "m.onnx"));
  const { y } = await evaluate(graph, { x: tensor("float32", [SIZE], Array<number>(SIZE).fill(0)) });
  expect(y?.data[SIZE - 1]).toBeCloseTo(Math.exp(-(values.at(-1) as number)), 5);
});
