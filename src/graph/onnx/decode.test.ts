import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as ort from "onnxruntime-node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openBytes } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { isTensorRef, readTensor, tensor } from "../../tensor/index.js";
import {
  constant,
  constantsOf,
  encodeGraph,
  type Graph,
  input,
  loadOnnx,
  makeGraph,
  makeNode,
  nodesOf,
  ops,
  saveOnnx,
  scope,
  type Value,
} from "../index.js";
import { AttributeProto_AttributeType, type ModelProto, ModelProtoSchema } from "./generated/onnx_pb.js";
import { attributeMessage, tensorMessage, valueInfo } from "./messages.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "onnx-decode-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const weight = Float32Array.from({ length: 32 * 32 }, (_, i) => Math.sin(i));

function linear(): Graph {
  const x = input("x", "float32", ["n", 32]);
  const w = constant(tensor("float32", [32, 32], weight), "model.layers.0.q_proj.weight");
  const b = constant(tensor("float32", [32], new Float32Array(32).fill(1)), "model.layers.0.q_proj.bias");
  const y = scope("model.layers.0.q_proj", () => ops.gemm(x, w, b, { transB: true }));
  return makeGraph("main", [x], [["y", ops.softmax(y)]]);
}

const feeds = {
  x: new ort.Tensor(
    "float32",
    Float32Array.from({ length: 64 }, (_, i) => Math.cos(i)),
    [2, 32],
  ),
};

async function run(model: string | Uint8Array, given: Record<string, ort.Tensor> = feeds) {
  const options = { logSeverityLevel: 3 } as const;
  const session =
    typeof model === "string"
      ? await ort.InferenceSession.create(model, options)
      : await ort.InferenceSession.create(model, options);
  const results = await session.run(given);
  return Object.fromEntries(
    Object.entries(results).map(([name, value]) => [name, Array.from(value.data as Float32Array, Number)]),
  );
}

const load = (model: ModelProto | Uint8Array) =>
  loadOnnx(openBytes(model instanceof Uint8Array ? model : toBinary(ModelProtoSchema, model), "test.onnx"));

const modelOf = (graph: Graph) => fromBinary(ModelProtoSchema, encodeGraph(graph));

test("weights stay in the file, at their place in it", async () => {
  const path = join(folder, "inline.onnx");
  await saveOnnx(linear(), path, { metadata: { license: "MIT" } });
  const { graph, metadata, close } = await loadOnnx(path);
  const [w, b] = constantsOf(graph);
  const data = w?.source.kind === "constant" ? w.source.data : undefined;
  if (!data || !isTensorRef(data)) throw new Error("the weight was read into memory");
  expect((await readTensor(data)).data).toEqual(weight);
  expect(b?.source.kind === "constant" && isTensorRef(b.source.data)).toBe(false);
  expect(metadata).toMatchObject({
    irVersion: 10,
    opsets: { "": 21 },
    producerName: "tunesmith",
    properties: { license: "MIT" },
  });
  expect(nodesOf(graph).map((node) => node.scope)).toEqual(["model.layers.0.q_proj", ""]);
  expect(graph.inputs[0]?.shape).toEqual(["n", 32]);
  await close();
});

test("ONNX Runtime reads weights out of an inline model through external regions", async () => {
  const path = join(folder, "original.onnx");
  await saveOnnx(linear(), path);
  const { graph, close } = await loadOnnx(path);
  const external = new Map<Value, { location: string; offset: number; length: number }>();
  for (const value of constantsOf(graph)) {
    if (value.source.kind === "constant" && isTensorRef(value.source.data)) {
      const { offset, byteLength } = value.source.data;
      external.set(value, { location: "original.onnx", offset, length: byteLength });
    }
  }
  const other = join(folder, "reader.onnx");
  await writeFile(other, encodeGraph(graph, { external }));
  expect((await stat(other)).size).toBeLessThan(1200);
  expect(await run(other)).toEqual(await run(path));
  expect(() => encodeGraph(graph)).toThrow(/'model.layers.0.q_proj.weight' is still in/);
  await close();
});

test.each(["never", "always"] as const)(
  "load, save, load, save gives the same bytes (external: %s)",
  async (external) => {
    const paths = ["a.onnx", "b.onnx"].map((name) => join(folder, external, name));
    const { mkdir } = await import("node:fs/promises");
    await mkdir(join(folder, external), { recursive: true });
    const [a, b] = paths as [string, string];
    await saveOnnx(linear(), a, { external });
    const first = await loadOnnx(a);
    await saveOnnx(first.graph, b, { external });
    const second = await loadOnnx(b);
    await saveOnnx(second.graph, b, { external });
    await Promise.all([first.close(), second.close()]);
    const text = (path: string) =>
      readFile(path, "latin1").then((content) => content.replaceAll("a.onnx", "b.onnx"));
    expect(await text(a)).toBe(await text(b));
    if (external === "always") expect(await readFile(`${a}_data`)).toEqual(await readFile(`${b}_data`));
    expect(await run(b)).toEqual(await run(a));
  },
);

test("external regions are aligned and shared data is written once", async () => {
  const x = input("x", "float32", [1, 32]);
  const data = tensor("float32", [32, 32], weight);
  const y = ops.matmul(ops.matmul(x, constant(data, "a")), constant(data, "b"));
  const path = join(folder, "shared.onnx");
  const { files } = await saveOnnx(
    makeGraph("main", [x], [["y", ops.matmul(y, constant(tensor("float32", [32, 32], weight), "c"))]]),
    path,
    { external: "always" },
  );
  expect(files).toEqual([path, `${path}_data`]);
  expect((await stat(`${path}_data`)).size).toBe(4096 * 2);
  const inMemory = { x: new ort.Tensor("float32", new Float32Array(32).fill(1), [1, 32]) };
  expect((await run(path, inMemory)).y?.length).toBe(32);
});

test("bad external data is refused, naming the tensor", async () => {
  const path = join(folder, "broken.onnx");
  await saveOnnx(linear(), path, { external: "always" });
  const bytes = await readFile(path, "latin1");
  const variant = async (from: string, to: string) => {
    await writeFile(join(folder, "variant.onnx"), Buffer.from(bytes.replaceAll(from, to), "latin1"));
    return loadOnnx(join(folder, "variant.onnx")).catch((error: TunesmithError) => error);
  };
  const name = /model\.layers\.0\.q_proj\.weight/;
  expect(await variant("broken.onnx_data", "../roken.ox_data")).toMatchObject({
    code: "file-corrupt",
    message: expect.stringMatching(name),
  });
  expect(await variant("broken.onnx_data", "missing.onn_data")).toMatchObject({
    code: "file-not-found",
    message: expect.stringMatching(name),
  });
  expect(await variant("broken.onnx_data", "/oken.onnxx_data")).toMatchObject({ code: "file-corrupt" });
  await writeFile(`${path}_data`, new Uint8Array(4095));
  expect(await loadOnnx(path).catch((error) => error)).toMatchObject({
    code: "file-corrupt",
    message: expect.stringMatching(/has 4095/),
  });
});

test("typed data fields of every kind are read", async () => {
  const model = modelOf(makeGraph("main", [], [["y", ops.neg(ops.scalar(1))]]));
  const fields = [
    { dataType: 1, floatData: [1.5, -2] },
    { dataType: 11, doubleData: [1.5, -2] },
    { dataType: 6, int32Data: [7, -8] },
    { dataType: 3, int32Data: [7, -8] },
    { dataType: 9, int32Data: [1, 0] },
    { dataType: 10, int32Data: [0x3c00, 0xc000] },
    { dataType: 7, int64Data: [-1n, 2n ** 62n] },
    { dataType: 13, uint64Data: [1n, 2n ** 63n] },
    { dataType: 12, uint64Data: [1n, 4294967295n] },
  ];
  const graph = create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: model.opsetImport,
    graph: {
      name: "g",
      node: fields.map((_, i) => ({ opType: "Identity", input: [`c${i}`], output: [`y${i}`] })),
      initializer: fields.map((field, i) => ({ name: `c${i}`, dims: [2n], ...field })),
      output: fields.map((_, i) => ({ name: `y${i}` })),
    },
  });
  const { graph: loaded } = await load(graph);
  const values = constantsOf(loaded).map((value) =>
    value.source.kind === "constant" && "data" in value.source.data
      ? [...(value.source.data.data as Float32Array)]
      : [],
  );
  expect(values).toEqual([
    [1.5, -2],
    [1.5, -2],
    [7, -8],
    [7, -8],
    [1, 0],
    [0x3c00, 0xc000],
    [-1n, 2n ** 62n],
    [1n, 2n ** 63n],
    [1, 4294967295],
  ]);
});

test("model-local functions are inlined with their attributes", async () => {
  const attribute = attributeMessage("alpha", { f: 0.5 }, "", () => {
    throw new Error("none");
  });
  const model = create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: [
      { domain: "", version: 18n },
      { domain: "local", version: 1n },
    ],
    graph: {
      name: "g",
      node: [
        {
          opType: "Leaky",
          domain: "local",
          name: "/block/act/Leaky",
          input: ["x"],
          output: ["y"],
          attribute: [attribute],
        },
      ],
      input: [valueInfo("x", "float32", ["n"])],
      output: [valueInfo("y", "float32", ["n"])],
    },
    functions: [
      {
        name: "Leaky",
        domain: "local",
        input: ["a"],
        output: ["b"],
        attribute: ["alpha"],
        opsetImport: [{ domain: "", version: 18n }],
        node: [
          {
            opType: "LeakyRelu",
            name: "leak",
            input: ["a"],
            output: ["t"],
            attribute: [{ name: "alpha", refAttrName: "alpha", type: AttributeProto_AttributeType.FLOAT }],
          },
          { opType: "Neg", name: "neg", input: ["t"], output: ["b"] },
        ],
      },
    ],
  });
  const { graph } = await load(model);
  expect(nodesOf(graph).map((node) => [node.op, node.scope, node.attrs])).toEqual([
    ["LeakyRelu", "block.act", { alpha: { f: 0.5 } }],
    ["Neg", "block.act", {}],
  ]);
  const given = { x: new ort.Tensor("float32", [-2, 3], [2]) };
  expect(await run(encodeGraph(graph), given)).toEqual(await run(toBinary(ModelProtoSchema, model), given));
});

test("loops come back with captures and growing values", async () => {
  const [x, count] = [input("x", "float32", ["n"]), input("count", "int64", [])];
  const scale = ops.exp(x);
  const [at, go, state] = [
    input("at", "int64", []),
    input("go", "bool", []),
    input("state", "float32", ["k"]),
  ];
  const body = {
    ...makeGraph(
      "body",
      [at, go, state],
      [
        ["more", ops.not(ops.not(go))],
        ["next", ops.concat([state, ops.reshape(ops.reduceSum(scale), [1])], 0)],
        ["seen", ops.reduceSum(state)],
      ],
    ),
    captures: [scale],
  };
  const loop = makeNode("Loop", [count, undefined, ops.slice(x, 0, 0, 1)], { body: { g: body } });
  const [kept, seen] = loop.outputs as [Value, Value];
  const bytes = encodeGraph(
    makeGraph(
      "main",
      [x, count],
      [
        ["kept", kept],
        ["seen", seen],
      ],
    ),
  );
  const { graph } = await load(bytes);
  const given = { x: new ort.Tensor("float32", [1, 2], [2]), count: new ort.Tensor("int64", [3n], []) };
  const again = encodeGraph(graph);
  expect(await run(again, given)).toEqual(await run(bytes, given));
  expect((await run(again, given)).kept?.length).toBe(4);
  expect(typeof graph.outputs.get("kept")?.shape[0]).toBe("string");
  expect(Buffer.compare(again, encodeGraph((await load(again)).graph))).toBe(0);
});

test("unknown operators are kept when the file declares their results, else refused by name", async () => {
  const model = (declared: boolean) =>
    create(ModelProtoSchema, {
      irVersion: 8n,
      opsetImport: [
        { domain: "", version: 18n },
        { domain: "custom.ops", version: 1n },
      ],
      graph: {
        name: "g",
        node: [
          { opType: "Wobble", domain: "custom.ops", name: "w", input: ["x"], output: ["t"] },
          { opType: "Neg", input: ["t"], output: ["y"] },
        ],
        input: [valueInfo("x", "float32", ["n", 2])],
        output: [valueInfo("y", "float32", ["n", 2])],
        valueInfo: declared ? [valueInfo("t", "float32", ["n", 2])] : [],
      },
    });
  const { graph } = await load(model(true));
  expect(nodesOf(graph)[0]).toMatchObject({ op: "Wobble", domain: "custom.ops" });
  expect((await load(encodeGraph(graph))).graph.outputs.get("y")?.shape).toEqual(["n", 2]);
  await expect(load(model(false))).rejects.toMatchObject({
    code: "op-unknown",
    message: expect.stringMatching(/'w'.*custom\.ops\.Wobble/),
  });
});

test("dimension expressions stay expressions, odd names become symbols, open axes get their own", async () => {
  const dims = (name: string, ...list: (string | undefined)[]) => ({
    name,
    type: {
      value: {
        case: "tensorType" as const,
        value: {
          elemType: 1,
          shape: {
            dim: list.map((text) =>
              text === undefined ? {} : { value: { case: "dimParam" as const, value: text } },
            ),
          },
        },
      },
    },
  });
  const model = create(ModelProtoSchema, {
    irVersion: 8n,
    opsetImport: [{ domain: "", version: 18n }],
    graph: {
      name: "g",
      node: [{ opType: "Neg", input: ["a"], output: ["y"] }],
      input: [dims("a", "batch", "past", "past + batch"), dims("b", "odd-name", undefined)],
      output: [{ name: "y" }],
    },
  });
  const { graph } = await load(model);
  expect(graph.inputs.map((value) => value.shape)).toEqual([
    ["batch", "past", "past+batch"],
    ["odd_name", "b_dim_1"],
  ]);
});

test.each([
  ["empty", new Uint8Array(0), "file-corrupt"],
  ["random", Uint8Array.from({ length: 200 }, (_, i) => (i * 97 + 13) % 256), "file-corrupt"],
  ["an .ort file", new TextEncoder().encode("\u0018\0\0\0ORTM\0\0"), "format-unsupported"],
  [
    "a Git LFS pointer",
    new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\noid"),
    "format-unsupported",
  ],
  ["a web page", new TextEncoder().encode("<!DOCTYPE html><html>"), "format-unsupported"],
])("%s is refused", async (_, bytes, code) => {
  await expect(load(bytes)).rejects.toMatchObject({ code });
});

test("damaged files raise typed errors only", async () => {
  const valid = encodeGraph(linear());
  let state = 12345;
  const random = (below: number) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
  let refused = 0;
  for (let round = 0; round < 600; round++) {
    const cut = round % 3 === 0 ? random(valid.length) : valid.length;
    const bytes = valid.slice(0, cut);
    // Most of the file is weights; damage the structure around them.
    const place = () =>
      random(2)
        ? random(Math.min(400, bytes.length || 1))
        : bytes.length - 1 - random(Math.min(400, bytes.length || 1));
    for (let hits = round % 3 === 0 ? 0 : 1 + random(4); hits > 0; hits--) bytes[place()] = random(256);
    try {
      await load(bytes);
    } catch (error) {
      refused++;
      if (!(error instanceof TunesmithError)) throw error;
    }
  }
  expect(refused).toBeGreaterThan(300);
});

test("duplicate names and missing edges are checked", async () => {
  const broken = (change: (model: ModelProto) => void) => {
    const model = modelOf(linear());
    change(model);
    return load(model);
  };
  await expect(broken((model) => model.graph?.node.shift())).rejects.toMatchObject({
    code: "graph-invalid",
    message: expect.stringMatching(/nothing before it produces/),
  });
  await expect(
    broken((model) =>
      model.graph?.initializer.push(tensorMessage(tensor("float32", [1], [1]), "model.layers.0.q_proj.bias")),
    ),
  ).rejects.toMatchObject({ code: "graph-invalid", message: expect.stringMatching(/defined twice/) });
  await expect(
    broken((model) => model.graph?.output.push({ ...valueInfo("z", "float32", []) })),
  ).rejects.toMatchObject({ code: "graph-invalid" });
});
