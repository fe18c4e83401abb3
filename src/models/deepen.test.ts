import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { maxAbsDiff, readTensor, toFloat32 } from "../tensor/index.js";
import { deepenModel, initModel, loadModel, logitsOf, saveModel } from "./index.js";
import type { CausalLm } from "./types.js";

const llama = {
  model_type: "llama",
  vocab_size: 64,
  hidden_size: 16,
  intermediate_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  initializer_range: 0.3,
};
const gpt2 = { model_type: "gpt2", vocab_size: 64, n_positions: 16, n_embd: 16, n_layer: 2, n_head: 2 };
const IDS = [3, 17, 40, 5, 61];

const gap = async (a: CausalLm, b: CausalLm) => maxAbsDiff(await logitsOf(a, IDS), await logitsOf(b, IDS));

async function numbers(model: CausalLm, name: string): Promise<Float32Array> {
  const source = model.weights.get(name)?.source;
  if (source?.kind !== "constant") throw new Error(name);
  return toFloat32(await readTensor(source.data));
}

test.each([["llama", llama] as const, ["gpt2", gpt2] as const])(
  "%s: copies that write nothing change nothing",
  async (_, config) => {
    const model = initModel({ ...config, initializer_range: 0.3 }, { seed: 1 });
    const same = await deepenModel(model, { layers: 5, scale: 0 });
    expect(same.sizes.layers).toBe(5);
    expect(await gap(same, model)).toBe(0);
    const near = await gap(await deepenModel(model, { layers: 5, scale: 0.01 }), model);
    const far = await gap(await deepenModel(model, { layers: 5, scale: 1 }), model);
    expect(near).toBeGreaterThan(0);
    expect(far).toBeGreaterThan(20 * near);
  },
);

test("layer k copies layer ⌊k·2/5⌋; only what a copy writes is scaled, by 1/√(2·5)", async () => {
  const model = initModel(llama, { seed: 1 });
  const deep = await deepenModel(model, { layers: 5 });
  const sources = [0, 0, 0, 1, 1];
  for (const [layer, source] of sources.entries()) {
    for (const map of ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj", "mlp.up_proj"]) {
      const writes = map.endsWith("o_proj") || map.endsWith("down_proj");
      const factor = writes && sources[layer - 1] === source ? Math.fround(1 / Math.sqrt(10)) : 1;
      const found = await numbers(deep, `model.layers.${layer}.${map}.weight`);
      const expected = await numbers(model, `model.layers.${source}.${map}.weight`);
      expect([...found]).toEqual(Array.from(expected, (value) => expect.closeTo(factor * value, 6)));
    }
  }
});

test("layers are tied to nothing", async () => {
  const { weights } = await deepenModel(initModel(llama, { seed: 1 }), { layers: 6, scale: 1 });
  expect(new Set(weights.values()).size).toBe(weights.size);
  expect([...weights].filter(([name, value]) => value.name !== name)).toEqual([]);
});

test("saved, it loads again; windows stay where they were", async () => {
  const config = { ...llama, model_type: "gemma2", sliding_window: 3, head_dim: 8, query_pre_attn_scalar: 8 };
  const model = initModel(config, { seed: 2 });
  const deep = await deepenModel(model, { layers: 4, scale: 0 });
  expect(deep.config.layer_types).toEqual([
    "sliding_attention",
    "sliding_attention",
    "full_attention",
    "full_attention",
  ]);
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-deep-"));
  await saveModel({ ...deep, tokenizer: undefined }, folder);
  const loaded = await loadModel(folder);
  expect(loaded.config.num_hidden_layers).toBe(4);
  expect(await gap(loaded, deep)).toBe(0);
});

test("what cannot be deepened is refused", async () => {
  const model = initModel(llama, { seed: 1 });
  await expect(deepenModel(model, { layers: 1 })).rejects.toMatchObject({ code: "config-invalid" });
  await expect(deepenModel(model, { layers: 2.5 })).rejects.toMatchObject({ code: "config-invalid" });
  await expect(deepenModel({ ...model, architecture: "onnx" }, { layers: 4 })).rejects.toMatchObject({
    code: "architecture-unsupported",
  });
  const indexed = initModel({ ...gpt2, scale_attn_by_inverse_layer_idx: true }, { seed: 1 });
  await expect(deepenModel(indexed, { layers: 4 })).rejects.toThrow(/number of the layer/);
});
