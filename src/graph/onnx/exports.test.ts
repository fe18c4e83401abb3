import { readdirSync } from "node:fs";
import * as ort from "onnxruntime-node";
import { expect, test } from "vitest";
import { openBytes, openFile } from "#io";
import { eliminateCommon, encodeGraph, fold, type Graph, loadOnnx, nodesOf, specialise } from "../index.js";

const folder = "fixtures/onnx";
const LENGTHS: Record<string, number> = { batch: 3, seq: 5, t: 9, h: 12, w: 10, n: 300 };

function feedsOf(graph: Graph): Record<string, ort.Tensor> {
  return Object.fromEntries(
    graph.inputs.map((value) => {
      const dims = value.shape.map((dim) => (typeof dim === "number" ? dim : (LENGTHS[dim] ?? 0)));
      const count = dims.reduce((a, b) => a * b, 1);
      const id = (i: number) => (value.name === "attention_mask" ? 1n : BigInt((i * 7) % 60));
      if (value.dtype === "int64") {
        return [
          value.name,
          new ort.Tensor(
            "int64",
            BigInt64Array.from({ length: count }, (_, i) => id(i)),
            dims,
          ),
        ];
      }
      return [
        value.name,
        new ort.Tensor(
          "float32",
          Float32Array.from({ length: count }, (_, i) => Math.sin(i)),
          dims,
        ),
      ];
    }),
  );
}

async function run(model: Uint8Array, feeds: Record<string, ort.Tensor>): Promise<ort.Tensor> {
  const { out } = await (await ort.InferenceSession.create(model, { logSeverityLevel: 3 })).run(feeds);
  if (!out) throw new Error("the model has no output 'out'");
  return out;
}

/** The model read into memory, so that its weights are constants that `encodeGraph` writes inline. */
async function bytesOf(name: string): Promise<Uint8Array> {
  const source = await openFile(`${folder}/${name}`);
  const bytes = await source.read(0, source.size);
  await source.close();
  return bytes;
}

const names = readdirSync(folder).filter((name) => name.endsWith(".onnx"));
test.each(names)("PyTorch's export %s: symbolic and specialised graphs compute the same", async (name) => {
  const bytes = await bytesOf(name);
  const { graph } = await loadOnnx(openBytes(bytes, name));
  const feeds = feedsOf(graph);
  const want = await run(bytes, feeds);
  const symbols = new Set(
    graph.inputs.flatMap((value) => value.shape.filter((dim) => typeof dim === "string")),
  );
  const bindings = Object.fromEntries([...symbols].map((symbol) => [symbol, LENGTHS[symbol] ?? 0]));
  const fixed = eliminateCommon(fold(specialise(graph, bindings)));
  expect(fixed.outputs.get("out")?.shape).toEqual(want.dims);
  for (const variant of [graph, fixed]) {
    const got = await run(encodeGraph(variant), feeds);
    expect(got.dims).toEqual(want.dims);
    const [a, b] = [want.data as Float32Array, got.data as Float32Array];
    expect(
      a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? Number.NaN))), 0),
    ).toBeLessThan(2e-5);
  }
  const shapeCode = nodesOf(fixed).filter((node) => /^(Shape|Range|ConstantOfShape|NonZero)$/.test(node.op));
  expect(shapeCode).toEqual([]);
});

test("modules are found under the names their community uses", async () => {
  const scopesOf = async (name: string) => {
    const { graph, close } = await loadOnnx(`${folder}/${name}`);
    await close();
    return new Set(nodesOf(graph).map((node) => node.scope));
  };
  expect(await scopesOf("llama.onnx")).toContain("model.model.layers.1.self_attn.q_proj");
  expect(await scopesOf("gpt2.onnx")).toContain("model.transformer.h.0.attn.c_attn");
  expect(await scopesOf("deberta.onnx")).toContain("model.encoder.layer.0.attention.self.query_proj");
});
