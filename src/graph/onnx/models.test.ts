import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { createSession } from "../../runtime/index.js";
import { float16ToFloat32, isFloat, type Tensor } from "../../tensor/index.js";
import {
  constantsOf,
  decompose,
  decompositionOf,
  eliminateCommon,
  type Graph,
  inFloat32,
  inlineControlFlow,
  input,
  loadOnnx,
  makeGraph,
  makeNode,
  nodesOf,
  ops,
  rewrite,
  saveOnnx,
  specialise,
  type Value,
} from "../index.js";

const folder = join(process.env.TUNESMITH_ASSETS ?? "../shared/assets", "models");
const models = existsSync(folder)
  ? readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".onnx"))
  : [];

/** Style networks of 720 x 720 pixels that differ in their weights only: one is run, the others are imported. */
const tooSlow = ["style/mosaic.onnx", "style/udnie.onnx"];

let work = "";
beforeAll(async () => {
  work = await mkdtemp(join(tmpdir(), "onnx-models-"));
});
afterAll(() => rm(work, { recursive: true, force: true }));

const BINDINGS: Record<string, number> = {
  batch: 2,
  past_seq_len: 3,
  past_sequence_length: 3,
  seq_len: 4,
  total_seq_len: 7,
};

function feedsOf(graph: Graph): Record<string, ort.Tensor> {
  let state = 1;
  const random = () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647 - 0.5;
  };
  return Object.fromEntries(
    graph.inputs.map((value) => {
      const dims = value.shape.map((dim) => (typeof dim === "number" ? dim : (BINDINGS[dim] ?? 1)));
      const count = dims.reduce((a, b) => a * b, 1);
      const bits = Array.from({ length: count }, (_, i) => i % 2);
      if (value.dtype === "int64")
        return [value.name, new ort.Tensor("int64", BigInt64Array.from(bits, BigInt), dims)];
      if (value.dtype === "int32") return [value.name, new ort.Tensor("int32", Int32Array.from(bits), dims)];
      if (value.dtype === "float16") {
        const halves = Uint16Array.from(bits, () => 0x3000 + Math.abs(random() * 0xff));
        return [value.name, new ort.Tensor("float16", halves, dims)];
      }
      return [value.name, new ort.Tensor("float32", Float32Array.from({ length: count }, random), dims)];
    }),
  );
}

async function run(path: string, feeds: Record<string, ort.Tensor>) {
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3 });
  const results = await session.run(feeds);
  await session.release();
  return results;
}

describe.skipIf(models.length === 0)(
  `published ONNX models in ${folder} (skipped when the folder is absent)`,
  () => {
    test.each(models)("%s: import, save, same outputs, inferred shapes, stable bytes", async (name) => {
      const original = join(folder, name);
      const { graph, close } = await loadOnnx(original);
      if (tooSlow.includes(name)) return close();
      const feeds = feedsOf(graph);
      const expected = await run(original, feeds);
      const first = join(work, `${name.replaceAll("/", "_")}`);
      await saveOnnx(graph, first);
      const actual = await run(first, feeds);
      for (const [output, value] of graph.outputs) {
        const [want, got] = [expected[output], actual[output]];
        expect(got?.dims).toEqual(want?.dims);
        const [a, b] = [want?.data as Float32Array, got?.data as Float32Array];
        const scale = a.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-6);
        expect(
          a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] as number))), 0) / scale,
        ).toBeLessThan(1e-5);
        value.shape.forEach((dim, axis) => {
          if (typeof dim === "number") expect(want?.dims[axis]).toBe(dim);
        });
        expect(value.shape.length).toBe(want?.dims.length);
      }
      expect(constantsOf(graph).length).toBeGreaterThan(0);
      await close();
      const again = await loadOnnx(first);
      const second = join(work, `again_${name.replaceAll("/", "_")}`);
      await saveOnnx(again.graph, second);
      await again.close();
      expect(Buffer.compare(await readFile(first), await readFile(second))).toBe(0);
    });
  },
);

/** Style networks of 720 x 720 pixels take seconds a run; they are as good at 96 x 96. */
function reduced(graph: Graph): Graph {
  const large = (value: Value) =>
    value.shape.length === 4 && value.shape.slice(2).every((dim) => dim === 720);
  const replace = new Map(
    graph.inputs
      .filter(large)
      .map((value) => [value, input(String(value.name), value.dtype, [...value.shape.slice(0, 2), 96, 96])]),
  );
  if (replace.size === 0) return graph;
  const small = rewrite(graph, {
    visit(node, inputs) {
      const { output_shape: lengths } = node.attrs;
      if (node.op !== "ConvTranspose" || !lengths || !("ints" in lengths)) return undefined;
      const ints = lengths.ints.map((length) => {
        const whole = Math.round(Number(length) / 180) * 180;
        return (whole * 96) / 720 + Number(length) - whole;
      });
      return makeNode(node.op, inputs, { ...node.attrs, output_shape: { ints } }, { scope: node.scope })
        .outputs;
    },
    replace,
  });
  return { ...small, inputs: graph.inputs.map((value) => replace.get(value) ?? value) };
}

/** A graph of static shape, in float32. */
function prepared(graph: Graph): Graph {
  const symbols = new Set(
    graph.inputs.flatMap((value) => value.shape.filter((dim) => typeof dim === "string")) as string[],
  );
  const plain = [...symbols].filter((name) => /^[\w.]+$/.test(name));
  const bound = specialise(graph, Object.fromEntries(plain.map((name) => [name, BINDINGS[name] ?? 1])));
  return inlineControlFlow(inFloat32(reduced(bound), { interface: "float32" }));
}

/** Float weights, as what computes with them sees them. */
function weightsOf(graph: Graph): Value[] {
  const casts = nodesOf(graph).filter(
    (node) => node.op === "Cast" && node.inputs[0]?.source.kind === "constant",
  );
  const behind = casts.flatMap((node) => node.outputs);
  return [...constantsOf(graph), ...behind].filter(
    (value) => value.dtype === "float32" && value.shape.length > 0,
  );
}

async function evaluated(graph: Graph, feeds: Record<string, ort.Tensor>): Promise<Record<string, Tensor>> {
  const session = await createSession(graph, { threads: 1 });
  const own = graph.inputs.map((value): [string, Tensor] => {
    const { data, dims, type } = feeds[String(value.name)] as ort.Tensor;
    return [String(value.name), { dtype: type, shape: dims, data } as Tensor];
  });
  const results = await session.run(Object.fromEntries(own));
  await session.release();
  return results;
}

const largest = (data: ArrayLike<number>) =>
  Array.from(data).reduce((most, value) => Math.max(most, Math.abs(value)), 0);

describe.skipIf(models.length === 0)(
  `published ONNX models in ${folder}, for training (skipped when the folder is absent)`,
  () => {
    test.each(models)(
      "%s: decomposes completely, to the same outputs; gradients of all weights",
      async (name) => {
        const { graph: imported, close } = await loadOnnx(join(folder, name));
        const graph = prepared(imported);
        const parts = decompose(graph);
        expect(nodesOf(parts).filter((node) => node.domain !== "" || decompositionOf(node))).toEqual([]);
        const real = [...parts.outputs].filter(([, value]) => isFloat(value.dtype));
        const loss = real
          .map(([, value]) => ops.reduceSum(ops.square(value), undefined, false))
          .reduce((a, b) => ops.add(a, b));
        const weights = weightsOf(parts);
        expect(weights.length).toBeGreaterThan(0);
        const sums = gradients(loss, weights).map((gradient) =>
          ops.reduceSum(ops.abs(gradient), undefined, false),
        );
        const all = makeGraph("all", parts.inputs, [
          ...real,
          ...sums.map((value, at) => [`sum${at}`, value] as const),
        ]);
        const feeds = feedsOf(graph);
        const want = await evaluated(graph, feeds);
        const got = await evaluated(eliminateCommon(all), feeds);
        for (const [output] of real) {
          const [a, b] = [want, got].map((results) => results[output]?.data as Float32Array) as [
            Float32Array,
            Float32Array,
          ];
          const difference = largest(a.map((value, at) => value - (b[at] as number)));
          expect(difference / Math.max(largest(a), 1e-6)).toBeLessThan(2e-5);
        }
        const sizes = sums.map((_, at) => got[`sum${at}`]?.data[0] as number);
        expect(sizes.every(Number.isFinite)).toBe(true);
        expect(sizes.filter((size) => size > 0).length).toBeGreaterThan(weights.length / 2);
        await close();
      },
      60000,
    );

    test.runIf(models.includes("squeezenet/SqueezeNet_fp16.onnx"))(
      "SqueezeNet in float16: float32 computes what the file computes",
      async () => {
        const path = join(folder, "squeezenet/SqueezeNet_fp16.onnx");
        const { graph, close } = await loadOnnx(path);
        const file = join(work, "wide.onnx");
        await saveOnnx(inFloat32(graph), file);
        const feeds = feedsOf(graph);
        const [half, wide] = [await run(path, feeds), await run(file, feeds)].map((results) =>
          float16ToFloat32(
            new Uint16Array((Object.values(results)[0] as ort.Tensor).data as unknown as ArrayLike<number>),
          ),
        ) as [Float32Array, Float32Array];
        expect(largest(half)).toBeGreaterThan(0);
        expect(largest(half.map((value, at) => value - (wide[at] as number))) / largest(half)).toBeLessThan(
          0.02,
        );
        await close();
      },
    );
  },
);
