import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Graph } from "../index.js";
import { constantsOf, loadOnnx, saveOnnx } from "../index.js";

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
