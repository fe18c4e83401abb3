import * as ort from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import {
  type Attrs,
  decompose,
  encodeGraph,
  type Graph,
  makeGraph,
  makeNode,
  op,
  ops,
  type Value,
} from "../../graph/index.js";
import { createSession } from "../../runtime/index.js";
import type { Dtype, Tensor } from "../../tensor/index.js";
import { compareDecomposition, largestOutput } from "../testing/compare-decomposition.js";
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
  test("Attention with a cache, every form of mask", async () => {
    const operands: Operand[] = [x, { shape: [4, 12] }, { shape: [12] }];
    const past: Operand = { shape: [2, 2, 2, 2, 2] };
    const all =
      (attrs: Attrs, pick: (v: Value[]) => (Value | undefined)[] = (v) => v) =>
      (...v: Value[]) =>
        makeNode("Attention", pick(v), { num_heads: i(2), ...attrs }, { ...MS, outputs: 2 }).outputs;
    const without = ([a, b, c, p]: Value[]) => [a, b, c, undefined, p];
    await verify({ operands: [...operands, past], build: all({}, without) });
    await verify({ operands: [...operands, past], build: all({ unidirectional: i(1) }, without) });
    const full = ids([2, 5], [1, 1, 0, 1, 1, 1, 0, 1, 1, 1], "int32");
    await verify({ operands: [...operands, full, past], build: all({}) });
    const build = y("Attention", { num_heads: i(2) }, (v) => v);
    await verify({ operands: [...operands, ids([4], [3, 2, 1, 0], "int32")], build });
    const square = Array.from({ length: 18 }, (_, at) => (at % 4 === 1 ? 0 : 1));
    await verify({ operands: [...operands, ids([2, 3, 3], square, "int32")], build });
    await verify({
      operands: [...operands, ids([2, 3], [1, 1, 0, 1, 1, 1], "int32")],
      build: y("Attention", { num_heads: i(2), mask_filter_value: f(-3) }, (v) => v),
    });
    const biased: Operand[] = [...operands, { shape: [1, 2, 3, 3] }];
    await verify({
      operands: biased,
      build: y("Attention", { num_heads: i(2), scale: f(0.2) }, ([a, b, c, d]) => [
        a,
        b,
        c,
        undefined,
        undefined,
        d,
      ]),
    });
    await verify({
      operands: [x, { shape: [4, 14] }, { shape: [14] }],
      build: y("Attention", { num_heads: i(2), qkv_hidden_sizes: { ints: [4, 4, 6] } }, (v) => v),
    });
  });
  test("MultiHeadAttention with padding masks, caches, cross attention", async () => {
    const all =
      (pick: (v: Value[]) => (Value | undefined)[], attrs: Attrs = {}, outputs = 1) =>
      (...v: Value[]) =>
        makeNode("MultiHeadAttention", pick(v), { num_heads: i(2), ...attrs }, { ...MS, outputs }).outputs;
    const masked = all(([q, k, v, m]) => [q, k, v, undefined, m]);
    await verify({ operands: [x, x, x, ids([2], [3, 2], "int32")], build: masked });
    await verify({ operands: [x, x, x, ids([2, 3], [1, 0, 1, 1, 1, 0], "int32")], build: masked });
    await verify({ operands: [x, x, x, ids([8], [3, 2, 0, 3, 6, 0, 3, 5], "int32")], build: masked });
    const past: Operand = { shape: [2, 2, 2, 2] };
    const cached = ([q, k, v, a, b]: Value[]) => [q, k, v, undefined, undefined, undefined, a, b];
    await verify({ operands: [x, x, x, past, past], build: all(cached, {}, 3) });
    await verify({ operands: [x, x, x, past, past], build: all(cached, { unidirectional: i(1) }, 3) });
    const memory: Operand = { shape: [2, 2, 5, 2] };
    await verify({ operands: [x, memory, memory], build: all((v) => v) });
    await verify({ operands: [x, { shape: [2, 5, 4] }, { shape: [2, 5, 6] }], build: all((v) => v) });
  });
  test("MultiHeadAttention over packed projections equals the unpacked one", async () => {
    const qkv: Operand = { shape: [2, 3, 2, 3, 2] };
    const kv: Operand = { shape: [2, 3, 2, 2, 2] };
    const attrs: Attrs = { num_heads: i(2) };
    const part = (v: Value, at: number) => ops.reshape(ops.slice(v, 3, at, at + 1), [2, 3, 4]);
    const unpacked = (...v: (Value | undefined)[]) => op("MultiHeadAttention", v, attrs, MS);
    const packed = (...v: (Value | undefined)[]) =>
      decompose(makeGraph("packed", [], [["y", op("MultiHeadAttention", v, attrs, MS)]])).outputs.get(
        "y",
      ) as Value;
    const difference = (a: Value, b: Value) => ops.sub(a, b);
    const single = { lower: [] };
    const zero = async (operands: Operand[], build: (...v: Value[]) => Value) =>
      expect(await largestOutput(compile, { ...single, operands, build })).toBeLessThan(1e-6);
    await zero([qkv], (v) => difference(packed(v), unpacked(part(v, 0), part(v, 1), part(v, 2))));
    await zero([x, kv], (q, v) => difference(packed(q, v), unpacked(q, part(v, 0), part(v, 1))));
    await zero([qkv, { shape: [12] }], (v, b) =>
      difference(packed(v, undefined, undefined, b), unpacked(part(v, 0), part(v, 1), part(v, 2), b)),
    );
    await checkGradients(compile, { operands: [qkv], build: (v) => unpacked(v), lower });
  });
  test("GroupQueryAttention with a cache, sink, bias, norms", async () => {
    const size = 16;
    const q: Operand = { shape: [1, 2, 4 * size], range: [-1, 1] };
    const kv: Operand = { shape: [1, 2, 2 * size], range: [-1, 1] };
    const cacheOf = (batch: number): Operand => ({ shape: [batch, 2, 3, size], range: [-1, 1] });
    const cache = cacheOf(1);
    const angles: Operand = { shape: [6, size / 2], differentiate: false };
    // The kernel reads garbage where the caches are not asked for, and leaves it behind the total length.
    const all =
      (attrs: Attrs, pick: (v: Value[]) => (Value | undefined)[], compared = 3) =>
      (...v: Value[]) =>
        makeNode(
          "GroupQueryAttention",
          pick(v),
          { num_heads: i(4), kv_num_heads: i(2), ...attrs },
          {
            ...MS,
            outputs: 3,
          },
        ).outputs.slice(0, compared);
    const full = [ids([1], [4], "int32"), ids([], [5], "int32")];
    await verify({ operands: [q, kv, kv, cache, cache, ...full], build: all({}, (v) => v) });
    const rotary = { do_rotary: i(1), local_window_size: i(3), softcap: f(2) };
    await verify({
      operands: [q, kv, kv, cache, cache, ...full, angles, angles],
      build: all(rotary, (v) => v),
    });
    const one: Operand[] = [
      { shape: [2, 1, 4 * size], range: [-1, 1] },
      { shape: [2, 1, 2 * size], range: [-1, 1] },
      { shape: [2, 1, 2 * size], range: [-1, 1] },
    ];
    const ragged = [ids([2], [3, 1], "int32"), ids([], [4], "int32")];
    const step = all({ do_rotary: i(1) }, (v) => v, 1);
    await verify({ operands: [...one, cacheOf(2), cacheOf(2), ...ragged, angles, angles], build: step });
    const prompt = [ids([1], [1], "int32"), ids([], [2], "int32")];
    await verify({ operands: [q, kv, kv, cache, cache, ...prompt], build: all({}, (v) => v, 1) });
    const open: Operand = { ...cache, symbolic: [1, 2, "past", size] };
    await verify({ operands: [q, kv, kv, open, open, ...full], build: all({}, (v) => v) });
    const gap = (v: Value[], at: number) => [...v.slice(0, at), ...Array<undefined>(10 - at).fill(undefined)];
    const sunk = all({}, (v) => [...gap(v.slice(0, 7), 7), undefined, v[7]], 1);
    await verify({ operands: [q, kv, kv, cache, cache, ...full, { shape: [4] }], build: sunk });
    const biased = all({}, (v) => [...gap(v.slice(0, 7), 7), v[7]], 1);
    await verify({ operands: [q, kv, kv, cache, cache, ...full, { shape: [1, 4, 2, 5] }], build: biased });
    await verify({
      operands: [q, kv, kv, ids([1], [1], "int32"), ids([], [2], "int32")],
      build: all({ smooth_softmax: i(1) }, ([a, b, c, n, t]) => [a, b, c, undefined, undefined, n, t]),
    });
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
    const masked = (...v: Value[]) => {
      const outputs = makeNode(
        "EmbedLayerNormalization",
        v,
        { epsilon: f(1e-5) },
        { ...MS, outputs: 3 },
      ).outputs;
      return [outputs[0] as Value, ops.cast(outputs[1] as Value, "float32"), outputs[2] as Value];
    };
    const mask = ids([2, 3], [1, 1, 0, 1, 1, 1], "int32");
    const item = { operands: [...operands, mask, ids([2, 3], [0, 0, 1, 1, 2, 3], "int32")], build: masked };
    expect(await compareDecomposition(compile, { ...item, lower })).toBeLessThan(2e-5);
  });
});
