import { fromBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { openBytes } from "#io";
import { gradients } from "../../autodiff/index.js";
import { evaluate } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import {
  constant,
  encodeGraph,
  type Graph,
  input,
  loadOnnx,
  makeGraph,
  makeNode,
  nodesOf,
  op,
  ops,
  substitute,
  type Value,
} from "../index.js";
import { ModelProtoSchema } from "./generated/onnx_pb.js";

const MS = { domain: "com.microsoft" };
const FUSED = ["SkipLayerNormalization", "MultiHeadAttention", "BiasGelu", "FusedMatMul"];

function weight(name: string, shape: number[]): Value {
  const count = shape.reduce((a, b) => a * b, 1);
  const values = Array.from({ length: count }, (_, at) => Math.sin(at * 1.3 + shape.length) / 2);
  return constant(tensor("float32", shape, values), name);
}

/** A block as ONNX Runtime's own optimiser writes it. */
function block(): Uint8Array {
  const x = input("x", "float32", ["batch", 3, 8]);
  const project = (value: Value, name: string) => ops.matmul(value, weight(name, [8, 8]));
  const attended = op(
    "MultiHeadAttention",
    [project(x, "q"), project(x, "k"), project(x, "v")],
    { num_heads: { i: 2 } },
    MS,
  );
  const [normal, , , sum] = makeNode(
    "SkipLayerNormalization",
    [attended, x, weight("gamma", [8]), weight("beta", [8])],
    { epsilon: { f: 1e-5 } },
    { ...MS, outputs: 4 },
  ).outputs as [Value, Value, Value, Value];
  const hidden = op("BiasGelu", [project(normal, "up"), weight("bias", [8])], {}, MS);
  const down = op(
    "FusedMatMul",
    [hidden, weight("down", [8, 8])],
    { transB: { i: 1 }, alpha: { f: 0.5 } },
    MS,
  );
  return encodeGraph(makeGraph("block", [x], [["y", ops.add(down, sum)]]));
}

const typesIn = (bytes: Uint8Array) =>
  fromBinary(ModelProtoSchema, bytes).graph?.node.map((node) => node.opType) ?? [];
const fusedIn = (graph: Graph) =>
  nodesOf(graph)
    .filter(({ op: name }) => FUSED.includes(name))
    .map((node) => node.op);

test("what was fused stays fused in the forward of a training graph, and in what is exported", async () => {
  const { graph } = await loadOnnx(openBytes(block(), "block.onnx"));
  const original = fusedIn(graph);
  expect([...original].sort()).toEqual([...FUSED].sort());
  const weights = nodesOf(graph)
    .flatMap((node) => node.inputs)
    .filter((value): value is Value => value?.source.kind === "constant" && value.dtype === "float32");
  const y = graph.outputs.get("y") as Value;
  const loss = ops.reduceSum(ops.square(y), undefined, false);
  const grads = gradients(loss, weights);
  const training = makeGraph("training", graph.inputs, [
    ["loss", loss],
    ...grads.map((value, at) => [`g${at}`, value] as const),
  ]);
  // Each once: differentiation takes copies apart, not the nodes themselves.
  expect(fusedIn(training).sort()).toEqual([...original].sort());
  const feeds = {
    x: tensor(
      "float32",
      [2, 3, 8],
      Array.from({ length: 48 }, (_, at) => Math.cos(at)),
    ),
  };
  const results = await evaluate(training, feeds);
  expect(
    grads.every((_, at) => Array.from(results[`g${at}`]?.data as Float32Array).some((value) => value !== 0)),
  ).toBe(true);
  // A step on the weights, and the exported model has the nodes it came with.
  const trained = new Map(
    weights.map((value, at): [Value, Value] => {
      const old =
        value.source.kind === "constant" && "data" in value.source.data ? value.source.data : undefined;
      const step = results[`g${at}`]?.data as Float32Array;
      const data = Float32Array.from(
        old?.data as Float32Array,
        (element, index) => element - 0.01 * (step[index] as number),
      );
      return [value, constant(tensor("float32", value.shape as number[], data), value.name)];
    }),
  );
  const bytes = encodeGraph(substitute(graph, trained));
  expect(typesIn(bytes)).toEqual(typesIn(block()));
  const again = await loadOnnx(openBytes(bytes, "trained.onnx"));
  const after = (await evaluate(again.graph, feeds)).y?.data as Float32Array;
  const lossAfter = Array.from(after).reduce((sum, value) => sum + value * value, 0);
  expect(lossAfter).toBeLessThan(results.loss?.data[0] as number);
});
