import * as ort from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import { type Attrs, encodeGraph, type Graph, makeNode, op, type Value } from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import type { Dtype, Tensor } from "../../tensor/index.js";
import { compareDecomposition } from "../testing/compare-decomposition.js";
import {
  type Compile,
  checkGradients,
  type GradientCase,
  type Operand,
} from "../testing/finite-differences.js";

const compile: Compile = (graph) => createSession(graph, { threads: 1, optimization: "basic" });
const lower = "Attention MultiHeadAttention GroupQueryAttention RotaryEmbedding EmbedLayerNormalization"
  .split(" ")
  .flatMap((name) => [name, `com.microsoft.${name}`]);
const MS = { domain: "com.microsoft" };
const f = (value: number) => ({ f: value });
const i = (value: number) => ({ i: value });
const ids = (shape: number[], values: number[], dtype: Dtype = "int64"): Operand => ({
  shape,
  values,
  dtype,
});

async function verify(item: GradientCase, kernel: Compile = compile): Promise<void> {
  expect(await compareDecomposition(kernel, { ...item, lower })).toBeLessThan(2e-5);
  await checkGradients(compile, { ...item, lower });
}

/** A session at opset 23, which this library does not emit by itself. */
const opset23: Compile = async (graph: Graph) => {
  const model = await encodeGraph(graph, { opset: 23, irVersion: 11 });
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3, intraOpNumThreads: 1 });
  return {
    async run(feeds) {
      const tensors = Object.entries(feeds).map(([name, { dtype, data, shape }]) => [
        name,
        new ort.Tensor(dtype as "float32", data as Float32Array, shape),
      ]);
      const results = await session.run(Object.fromEntries(tensors));
      const plain = Object.entries(results).map(([name, { type, dims, data }]): [string, Tensor] => [
        name,
        { dtype: type as Dtype, shape: dims, data: data as Float32Array },
      ]);
      return Object.fromEntries(plain);
    },
    release: () => session.release(),
  };
};

describe("rotary embedding", () => {
  const cache: Operand = { shape: [5, 2], differentiate: false };
  test.each([0, 1])("com.microsoft, interleaved=%i", async (interleaved) => {
    const build = (...v: Value[]) =>
      op("RotaryEmbedding", [v[0], v[3], v[1], v[2]], { interleaved: i(interleaved) }, MS);
    await verify({
      operands: [{ shape: [2, 2, 3, 4] }, cache, cache, ids([2, 3], [0, 1, 2, 2, 4, 3])],
      build,
    });
    await verify({ operands: [{ shape: [2, 3, 8] }, cache, cache, ids([1], [1])], build });
  });
  test("over part of a head", async () => {
    const attrs: Attrs = { rotary_embedding_dim: i(4), num_heads: i(2) };
    const build = (...v: Value[]) => op("RotaryEmbedding", [v[0], v[3], v[1], v[2]], attrs, MS);
    await verify({ operands: [{ shape: [1, 3, 12] }, cache, cache, ids([1, 3], [0, 1, 2])], build });
  });
  test("ONNX 23, with and without position ids", async () => {
    const build = (...v: Value[]) => op("RotaryEmbedding", v, {});
    await verify(
      { operands: [{ shape: [2, 2, 3, 4] }, cache, cache, ids([2, 3], [0, 1, 2, 2, 4, 3])], build },
      opset23,
    );
    const angles: Operand = { shape: [2, 3, 2], differentiate: false };
    await verify({ operands: [{ shape: [2, 2, 3, 4] }, angles, angles], build }, opset23);
  });
});

describe("Attention of ONNX 23", () => {
  const attention =
    (attrs: Attrs) =>
    (...v: Value[]) =>
      op("Attention", v, attrs);
  const q: Operand = { shape: [1, 4, 3, 2] };
  const kv: Operand = { shape: [1, 2, 4, 2] };
  test("grouped heads, scale, softcap", async () => {
    await verify({ operands: [q, kv, kv], build: attention({}) }, opset23);
    await verify({ operands: [q, kv, kv], build: attention({ scale: f(0.5), softcap: f(1.5) }) }, opset23);
  });
  test("causal, masks, flat layout", async () => {
    const same: Operand = { shape: [1, 2, 3, 2] };
    await verify({ operands: [q, same, same], build: attention({ is_causal: i(1) }) }, opset23);
    await verify({ operands: [q, kv, kv, { shape: [3, 4] }], build: attention({}) }, opset23);
    await verify(
      {
        operands: [q, kv, kv, { shape: [3, 4], dtype: "bool", values: [1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1] }],
        build: attention({}),
      },
      opset23,
    );
    const flat = attention({ q_num_heads: i(2), kv_num_heads: i(2) });
    await verify(
      { operands: [{ shape: [2, 3, 4] }, { shape: [2, 3, 4] }, { shape: [2, 3, 4] }], build: flat },
      opset23,
    );
  });
});

describe("com.microsoft attention", () => {
  const x: Operand = { shape: [2, 3, 4] };
  const y =
    (name: string, attrs: Attrs, pick: (v: Value[]) => (Value | undefined)[], outputs = 1) =>
    (...v: Value[]) =>
      makeNode(name, pick(v), attrs, { ...MS, outputs }).outputs[0] as Value;
  test("Attention, plain, causal, padding mask", async () => {
    const operands: Operand[] = [x, { shape: [4, 12] }, { shape: [12] }];
    const build = (attrs: Attrs) => y("Attention", { num_heads: i(2), ...attrs }, (v) => v);
    await verify({ operands, build: build({}) });
    await verify({ operands, build: build({ unidirectional: i(1) }) });
    await verify({ operands: [...operands, ids([2, 3], [1, 1, 0, 1, 1, 1], "int32")], build: build({}) });
    await verify({ operands: [...operands, ids([2], [2, 3], "int32")], build: build({}) });
  });
  test("MultiHeadAttention, bias, masks, symbolic length", async () => {
    const build = (pick: (v: Value[]) => (Value | undefined)[], attrs: Attrs = {}) =>
      y("MultiHeadAttention", { num_heads: i(2), ...attrs }, pick);
    await verify({ operands: [x, x, x], build: build((v) => v) });
    await verify({ operands: [x, x, x, { shape: [12] }], build: build((v) => v, { scale: f(0.3) }) });
    await verify({
      operands: [x, x, x, { shape: [1, 2, 3, 3] }],
      build: build(([q, k, v, b]) => [q, k, v, undefined, undefined, b]),
    });
    const open: Operand = { ...x, symbolic: ["batch", "time", 4] };
    await verify({ operands: [open, open, open], build: build((v) => v, { unidirectional: i(1) }) });
  });
  test("GroupQueryAttention, rotary, window, softcap, packed", async () => {
    const size = 16;
    const lengths = [ids([2], [2, 2], "int32"), ids([], [3], "int32")];
    const cache: Operand = { shape: [4, size / 2], differentiate: false };
    const q: Operand = { shape: [2, 3, 4 * size], range: [-1, 1] };
    const kv: Operand = { shape: [2, 3, 2 * size], range: [-1, 1] };
    const build = (attrs: Attrs) =>
      y(
        "GroupQueryAttention",
        { num_heads: i(4), kv_num_heads: i(2), ...attrs },
        ([a, b, c, n, t, cos, sin]) => [a, b, c, undefined, undefined, n, t, cos, sin],
        3,
      );
    await verify({ operands: [q, kv, kv, ...lengths], build: build({}) });
    const rotary = { do_rotary: i(1), softcap: f(2), local_window_size: i(2) };
    await verify({ operands: [q, kv, kv, ...lengths, cache, cache], build: build(rotary) });
    const packed = y(
      "GroupQueryAttention",
      { num_heads: i(4), kv_num_heads: i(2) },
      ([a, n, t]) => [a, undefined, undefined, undefined, undefined, n, t],
      3,
    );
    await verify({ operands: [{ shape: [2, 3, 8 * size], range: [-1, 1] }, ...lengths], build: packed });
  });
  test("EmbedLayerNormalization", async () => {
    const operands: Operand[] = [
      ids([2, 3], [0, 1, 2, 2, 4, 3], "int32"),
      ids([2, 3], [0, 1, 1, 0, 0, 1], "int32"),
      { shape: [5, 4] },
      { shape: [4, 4] },
      { shape: [2, 4] },
      { shape: [4] },
      { shape: [4] },
    ];
    await verify({ operands, build: y("EmbedLayerNormalization", { epsilon: f(1e-5) }, (v) => v, 2) });
  });
});
