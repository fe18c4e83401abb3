import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openBytes } from "#io";
import {
  encodeOnnxAdapter,
  loadAll,
  loadStored,
  openOnnxAdapter,
  parseJsonTensors,
  tensor,
} from "../index.js";
import { expectedOf, fixturePath, fuzz, spelled } from "./testing/fixtures.js";

describe(".onnx_adapter", () => {
  test("a file of ONNX Runtime", async () => {
    const file = await openOnnxAdapter(fixturePath("adapter.onnx_adapter"));
    expect([file.adapterVersion, file.modelVersion]).toEqual([7, 3]);
    const expected = await expectedOf("onnx_adapter");
    expect([...file.tensors.keys()].sort()).toEqual(expected.map((entry) => entry.name).sort());
    for (const entry of expected) {
      const ref = file.tensors.get(entry.name);
      if (!ref) throw new Error(entry.name);
      const loaded = await loadStored(ref);
      expect([loaded.dtype, loaded.shape, spelled(loaded)]).toEqual([entry.dtype, entry.shape, entry.values]);
    }
  });

  test("what is written reads back, every value aligned to 8 bytes", async () => {
    const tensors = [
      ["a", tensor("float32", [3, 1], [1, 2, 3])],
      ["layer.snow \u2603", tensor("bfloat16", [3], [1, -2, 0.5])],
      ["one", tensor("int64", [1], [5n])],
      ["empty", tensor("float16", [0, 2], [])],
      ["bits", tensor("bool", [5], [1, 0, 1, 1, 0])],
    ] as const;
    const bytes = encodeOnnxAdapter(tensors, { adapterVersion: 4 });
    const file = await openOnnxAdapter(openBytes(bytes, "again.onnx_adapter"));
    expect([file.adapterVersion, file.modelVersion]).toEqual([4, 1]);
    expect([...(await loadAll(file))]).toEqual(tensors.map(([name, value]) => [name, value]));
    expect([...file.tensors.values()].map((ref) => ref.offset % 8)).toEqual([0, 0, 0, 0, 0]);
  });

  test("what cannot be written, and files of other kinds", async () => {
    const twice = [["a", tensor("float32", [1], [1])] as const, ["a", tensor("float32", [1], [1])] as const];
    expect(() => encodeOnnxAdapter(twice)).toThrow(expect.objectContaining({ code: "name-conflict" }));
    const int4 = [["a", tensor("int4", [2], [1, 2])] as const];
    expect(() => encodeOnnxAdapter(int4)).toThrow(expect.objectContaining({ code: "dtype-unsupported" }));
    const scalar = [["a", tensor("float32", [], [1])] as const];
    expect(() => encodeOnnxAdapter(scalar)).toThrow(expect.objectContaining({ code: "shape-mismatch" }));
    await expect(openOnnxAdapter(fixturePath("quants.gguf"))).rejects.toThrow(/TORT/);
  });

  test("damaged copies", async () => {
    const { refused, accepted } = await fuzz("adapter.onnx_adapter", 800, async (source) => {
      for (const ref of (await openOnnxAdapter(source)).tensors.values()) await loadStored(ref);
    });
    expect(refused).toBeGreaterThan(120);
    expect(accepted).toBeGreaterThan(20);
  });
});

describe("JSON of tensors", () => {
  test("base64 and plain numbers", () => {
    const { tensors, config } = parseJsonTensors(
      '{"config": {"n": 1}, "a": {"shape": [2], "dtype": "torch.float32", "data": "AACAPwAAAMA="}, "b": {"shape": [1, 2], "data": [3, 4]}}',
      "m.json",
    );
    expect(config).toEqual({ n: 1 });
    expect(tensors.get("a")).toEqual(tensor("float32", [2], [1, -2]));
    expect(tensors.get("b")).toEqual(tensor("float32", [1, 2], [3, 4]));
  });

  test.each([
    ["nothing", /not JSON/],
    ["[]", /not a JSON object/],
    ['{"a": 1}', /no tensor/],
    ['{"a": {"shape": [-1], "data": []}}', /shape/],
    ['{"a": {"shape": [2], "dtype": "torch.quint8", "data": ""}}', /dtype/],
    ['{"a": {"shape": [2], "data": "AACAPw=="}}', /4 bytes instead of 8/],
    ['{"a": {"shape": [2], "data": "*"}}', /base64/],
    ['{"a": {"shape": [2], "data": [1]}}', /1 numbers/],
  ])("%s", (text, message) => {
    expect(() => parseJsonTensors(text, "m.json")).toThrow(message);
  });

  const path = join(process.env.TUNESMITH_ASSETS ?? "../shared/assets", "models/gpt-nano-sort/model.json");
  test.skipIf(!existsSync(path))("gpt-nano, which sorts", () => {
    const { tensors, config } = parseJsonTensors(readFileSync(path, "utf8"), path);
    expect(config).toMatchObject({ model_type: "gpt-nano", n_layer: 3, n_head: 3, n_embd: 48 });
    expect(tensors.size).toBe(44);
    expect(tensors.get("transformer.h.0.attn.c_attn.weight")?.shape).toEqual([144, 48]);
    const mask = tensors.get("transformer.h.0.attn.bias");
    expect(mask && spelled(mask).slice(0, 12)).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
  });
});
