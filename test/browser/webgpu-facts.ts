/**
 * Wrong and missing kernels of the pinned ONNX Runtime's WebGPU, asserted as they are: when one of these fails after
 * an upgrade, the rule in src/runtime/dialect.ts that works around it can be reconsidered.
 */
import { load } from "#ort";
import {
  constant,
  encodeGraph,
  type Graph,
  input,
  makeGraph,
  makeNode,
  nodesOf,
  op,
  ops,
  type Value,
} from "../../src/graph/index.js";
import { evaluate, forBackend } from "../../src/runtime/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";
import { assert, close, failure, test } from "./harness.js";
import { noise } from "./noise.js";

type Feeds = Readonly<Record<string, Tensor>>;

/** Past our dialect: what the backend itself does with a graph. */
async function raw(graph: Graph, feeds: Feeds, backend: "wasm" | "webgpu"): Promise<Record<string, Tensor>> {
  const session = await load(encodeGraph(graph), new Set(), { backend });
  try {
    return await session.run(feeds, [...graph.outputs.keys()]);
  } finally {
    await session.release();
  }
}

const f = (value: number) => ({ f: value });
const i = (value: number) => ({ i: value });

function rmsWithStatistics() {
  const [x, gamma] = [input("x", "float32", [4, 32]), input("g", "float32", [32])];
  const node = makeNode("SimplifiedLayerNormalization", [x, gamma], { axis: i(-1), epsilon: f(1e-6) });
  const y = node.outputs[0] as Value;
  const statistic: Value = { ...y, id: y.id + 0.5, shape: [4, 1], source: { kind: "node", node, index: 1 } };
  (node as { outputs: readonly Value[] }).outputs = [y, statistic];
  return {
    graph: makeGraph(
      "rms",
      [x, gamma],
      [
        ["y", y],
        ["s", statistic],
      ],
    ),
    feeds: { x: noise(1, [4, 32], 3), g: noise(2, [32]) },
  };
}

function missingKernels(): void {
  test("fact: Dropout has no WebGPU kernel; the dialect writes Identity", async () => {
    const x = input("x", "float32", [4]);
    const graph = makeGraph("d", [x], [["y", op("Dropout", [x])]]);
    const training = makeGraph(
      "d",
      [x],
      [["y", op("Dropout", [x, ops.scalar(0.5), constant(tensor("bool", [], [1]))])]],
    );
    const feeds = { x: noise(3, [4]) };
    const { message } = await failure(raw(training, feeds, "webgpu"));
    const { y } = await evaluate(graph, feeds, { backend: "webgpu" });
    close(y, feeds.x, 0, "identity");
    assert(
      nodesOf(forBackend(graph, "webgpu")).every((node) => node.op !== "Dropout"),
      "no Dropout is left",
    );
    return message.split("\n")[0];
  });
  test("fact: MaxPool fails with Indices; the dialect writes compares", async () => {
    const x = input("x", "float32", [1, 1, 4, 4]);
    const node = makeNode("MaxPool", [x], { kernel_shape: { ints: [2, 2] } }, { outputs: 2 });
    const graph = makeGraph(
      "m",
      [x],
      [
        ["y", node.outputs[0] as Value],
        ["at", node.outputs[1] as Value],
      ],
    );
    const { message } = await failure(raw(graph, { x: noise(4, [1, 1, 4, 4]) }, "webgpu"));
    assert(
      nodesOf(forBackend(graph, "webgpu")).every(({ op: name }) => name !== "MaxPool"),
      "no MaxPool is left",
    );
    return message.split("\n")[0];
  });
}

function wrongKernels(): void {
  test("fact: SimplifiedLayerNormalization's second output is wrong; no graph of ours asks for it", async () => {
    const { graph, feeds } = rmsWithStatistics();
    const [cpu, gpu] = [await raw(graph, feeds, "wasm"), await raw(graph, feeds, "webgpu")];
    close(gpu.y, cpu.y as Tensor, 1e-5, "first output");
    const [right, wrong] = [(cpu.s as Tensor).data[0] as number, (gpu.s as Tensor).data[0] as number];
    assert(
      Math.abs(right - wrong) > 1e-3,
      `the second output is right now (${right}): ops.rmsNorm may use it`,
    );
    return `${wrong.toFixed(4)} instead of ${right.toFixed(4)}`;
  });
  test("fact: MatMul over an empty axis fails; the dialect writes zeros", async () => {
    const [a, b] = [input("a", "float32", [2, 0]), input("b", "float32", [0, 3])];
    const graph = makeGraph("k0", [a, b], [["y", ops.matmul(a, b)]]);
    const feeds = { a: noise(5, [2, 0]), b: noise(6, [0, 3]) };
    const { y } = await evaluate(graph, feeds, { backend: "webgpu" });
    close(y, tensor("float32", [2, 3], [0, 0, 0, 0, 0, 0]), 0, "zeros");
    const { message } = await failure(raw(graph, feeds, "webgpu"));
    return message.split("\n")[0];
  });
}

export function webgpuFacts(): void {
  missingKernels();
  wrongKernels();
}
