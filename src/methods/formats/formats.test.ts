import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  deltaOf,
  deltas,
  expectClose,
  expectSameDeltas,
  fixture,
  json,
  names,
  normal,
  PREFIX,
  sample,
  tensorsOf,
} from "../../../test/support/adapter-formats.js";
import { loadAll, openGguf, openTorch, type Tensor, toFloat32 } from "../../tensor/index.js";
import {
  fromGgufLora,
  fromLoralib,
  fromMlx,
  ggufArchitectures,
  type PeftTensors,
  toGgufLora,
  toLoralib,
  toMlx,
} from "./index.js";
import { fromPeft, type LoraModule, toPeft } from "./parts.js";

describe("PEFT", () => {
  test("reading and writing keep every tensor, rank and scale", () => {
    const adapter = sample(["h.0.q", "x.h.0.q", "h.1.q", "h.2.q"]);
    const again = toPeft(fromPeft(adapter));
    expect([...again.tensors]).toEqual([...adapter.tensors]);
    expectSameDeltas(again, adapter);
    const rslora = sample(["h.0.q", "h.1.q"], { use_rslora: true });
    expectSameDeltas(toPeft(fromPeft(rslora)), rslora);
  });

  test("a rank that deviates does not leak into longer paths", () => {
    const module = (path: string, rank: number): LoraModule => ({
      path,
      a: normal(rank, 4),
      b: normal(4, rank),
      scale: 1,
      embedding: false,
    });
    const parts = { modules: [module("q", 3), module("x.q", 2), module("y.q", 2)], saved: new Map() };
    const read = fromPeft(toPeft(parts));
    expect(read.modules.map(({ scale }) => scale)).toEqual([1, 1, 1]);
  });

  test("what VeLoRA and MonteCLoRA train with is left out", () => {
    const adapter = sample(["h.0.q"]);
    const [extra, prior] = ["lora_velora_embed", "lora_monteclora_sampler.std_prior"].map(
      (name) => [`${PREFIX}h.0.q.${name}`, normal(3)] as const,
    ) as [[string, Tensor], [string, Tensor]];
    const tensors = new Map([...adapter.tensors, extra, prior]);
    expect(fromPeft({ ...adapter, tensors }).saved.size).toBe(0);
    expectSameDeltas(fromMlx(toMlx({ ...adapter, tensors }, { layers: 1 })), adapter);
  });

  test.each([
    [{ peft_type: "VERA" }, /LoRA/],
    [{ init_lora_weights: "pissa" }, /changed base/],
    [{ use_qalora: true }, /use_qalora/],
  ])("%j does not convert", (config, message) => {
    const adapter = { ...sample(["q"]), config: { ...sample(["q"]).config, ...config } } as PeftTensors;
    expect(() => toLoralib(adapter)).toThrow(message);
    expect(() => toLoralib(adapter)).toThrow(expect.objectContaining({ code: "adapter-invalid" }));
  });
});

describe("MLX", () => {
  test("an adapter of MLX-LM means what its fuse() does", async () => {
    const adapter = fromMlx({
      tensors: await tensorsOf("mlx/adapters.safetensors"),
      config: json("mlx/adapter_config.json"),
    });
    const expected = await tensorsOf("mlx/delta.safetensors");
    const found = deltas(adapter);
    expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
    for (const [path, delta] of expected) expectClose(found.get(path), toFloat32(delta), path);
    expect(adapter.config).toMatchObject({ r: 3, lora_alpha: 7.5, rank_pattern: {}, alpha_pattern: {} });
    expect([...adapter.tensors.keys()]).toContain(`${PREFIX}model.embed_tokens.lora_embedding_A`);
  });

  test("DoRA", async () => {
    const file = {
      tensors: await tensorsOf("mlx-dora/adapters.safetensors"),
      config: json("mlx-dora/adapter_config.json"),
    };
    const adapter = fromMlx(file);
    expect(adapter.config.use_dora).toBe(true);
    const [base, expected] = [
      await tensorsOf("mlx-dora/base.safetensors"),
      await tensorsOf("mlx-dora/delta.safetensors"),
    ];
    for (const module of fromPeft(adapter).modules) {
      const [weight, delta] = [base.get(module.path), expected.get(module.path)];
      if (!weight || !delta || !module.magnitude) throw new Error(module.path);
      const columns = weight.shape[1] ?? 1;
      const w = Array.from(toFloat32(weight));
      const v = deltaOf(module).map((value, i) => value + Number(w[i]));
      const merged = v.map((value, i) => {
        const row = Math.floor(i / columns);
        const norm = Math.hypot(...v.slice(row * columns, (row + 1) * columns));
        return (value * Number(toFloat32(module.magnitude as Tensor)[row])) / norm - Number(w[i]);
      });
      expectClose(merged, toFloat32(delta), module.path);
    }
    const again = toMlx(adapter, { layers: 3 });
    expect([...again.tensors].sort()).toEqual([...file.tensors].sort());
    expect(again.config).toMatchObject({ fine_tune_type: "dora", num_layers: 2 });
  });

  test("round trip: one rank and one scale for all", async () => {
    const adapter = sample([
      "model.layers.1.self_attn.q_proj",
      "model.layers.2.mlp.up_proj",
      "model.layers.2.self_attn.q_proj",
    ]);
    const written = toMlx(adapter, { layers: 4 });
    expect(written.config).toEqual({
      fine_tune_type: "lora",
      num_layers: 3,
      lora_parameters: { rank: 3, scale: 2.5, dropout: 0, keys: ["mlp.up_proj", "self_attn.q_proj"] },
    });
    expect(written.tensors.get("model.layers.1.self_attn.q_proj.lora_a")?.shape).toEqual([8, 3]);
    expectSameDeltas(fromMlx(written), adapter);
  });

  test("GPT-2 has other names there; what does not convert", () => {
    const adapter = sample(["transformer.h.0.attn.c_attn"]);
    const written = toMlx(adapter, { modelType: "gpt2" });
    expect([...written.tensors.keys()]).toContain("model.h.0.attn.c_attn.lora_a");
    expectSameDeltas(fromMlx(written, { modelType: "gpt2" }), adapter);
    const { tensors } = written;
    expect(() => fromMlx({ tensors, config: {} })).toThrow(/lora_parameters/);
    expect(() => fromMlx({ tensors, config: { lora_parameters: { rank: 2 } } })).toThrow(/no scale/);
    expect(() => fromMlx({ tensors, config: { fine_tune_type: "full", lora_parameters: {} } })).toThrow(
      /full/,
    );
    const experts = new Map([
      ["x.lora_a", normal(2, 3, 8)],
      ["x.lora_b", normal(2, 8, 3)],
    ]);
    expect(() => fromMlx({ tensors: experts, config: { lora_parameters: { scale: 1 } } })).toThrow(
      /linear layers/,
    );
  });
});

describe("GGUF", () => {
  test("an adapter in llama.cpp's layout", async () => {
    const file = await openGguf(fixture("llama.gguf"));
    const adapter = fromGgufLora(
      { tensors: await loadAll(file), metadata: file.metadata },
      { heads: 2, kvHeads: 1 },
    );
    const expected = await tensorsOf("peft.safetensors");
    expect([...adapter.tensors].sort()).toEqual([...expected].sort());
    expect(adapter.config).toMatchObject({ r: 3, lora_alpha: 6 });
    const written = toGgufLora(adapter, { architecture: "llama", heads: 2, kvHeads: 1 });
    expect([...written.tensors].sort()).toEqual([...(await loadAll(file))].sort());
    for (const [key, value] of written.metadata) expect(file.metadata.get(key)).toEqual(value);
  });

  test.each(Object.entries(names.gguf))("names of %s", (architecture, expected) => {
    const adapter = sample(Object.keys(expected));
    const embedding = Object.keys(expected).find((path) => /embed_tokens|wte/.test(path));
    const tensors = new Map(
      [...adapter.tensors].map(([name, value]) => [
        embedding && name.includes(embedding)
          ? name.replace(/lora_([AB])\.weight/, "lora_embedding_$1")
          : name,
        value,
      ]),
    );
    const given = { ...adapter, tensors };
    const heads = { heads: 2, kvHeads: 1 };
    const written = toGgufLora(given, { architecture, ...heads });
    const wanted = Object.values(expected).flatMap((name) => [
      `${name}.weight.lora_a`,
      `${name}.weight.lora_b`,
    ]);
    expect([...written.tensors.keys()].sort()).toEqual(wanted.sort());
    expectSameDeltas(fromGgufLora(written, heads), given);
  });

  test("every architecture is checked against the gguf package", () => {
    expect(Object.keys(names.gguf).sort()).toEqual([...ggufArchitectures].sort());
  });

  test("what does not convert", () => {
    const adapter = sample(["model.layers.0.self_attn.q_proj"]);
    const code = (expected: string) => expect.objectContaining({ code: expected });
    expect(() => toGgufLora(adapter, { architecture: "llama" })).toThrow(code("config-invalid"));
    expect(() => toGgufLora(adapter, { architecture: "llama", heads: 3 })).toThrow(code("config-invalid"));
    expect(() => toGgufLora(adapter, { architecture: "rwkv" })).toThrow(code("architecture-unsupported"));
    expect(() => toGgufLora(adapter, { architecture: "gpt2" })).toThrow(/no name for/);
    const { tensors, metadata } = toGgufLora(adapter, { architecture: "qwen2" });
    expect(() => fromGgufLora({ tensors, metadata: new Map() })).toThrow(/no LoRA adapter/);
    const odd = new Map([["blk.0.ssm_in.weight.lora_a", normal(2, 2)]]);
    expect(() => fromGgufLora({ tensors: odd, metadata })).toThrow(/no module of qwen2/);
  });
});

describe("loralib", () => {
  const enableLora = [true, false, true];

  test("merged projections, linear layers and embeddings of a full checkpoint", async () => {
    const file = await openTorch(fixture("loralib.pth"));
    const tensors = await loadAll(file);
    const adapter = fromLoralib(tensors, { alpha: 4, enableLora, saved: ["transformer.classifier"] });
    const expected = await tensorsOf("loralib.delta.safetensors");
    const found = deltas(adapter);
    expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
    for (const [path, delta] of expected) expectClose(found.get(path), toFloat32(delta), path);
    expect(adapter.config).toMatchObject({ modules_to_save: ["transformer.classifier"] });
    expect([...adapter.base.keys()]).toContain("transformer.attn.c_attn.weight");
    expect([...adapter.base.keys()]).not.toContain("transformer.classifier.weight");
    const again = toLoralib(adapter, { enableLora });
    for (const [name, value] of again) expect([name, value]).toEqual([name, tensors.get(name)]);
    expect([...again.keys()].filter((name) => name.includes("lora_")).length).toBe(6);
    expectSameDeltas(fromLoralib(toLoralib(adapter), { alpha: 4 }), adapter);
  });

  test("scales other than the script's go into B", () => {
    const adapter = sample(["h.0.q", "h.1.q"]);
    expectSameDeltas(fromLoralib(toLoralib(adapter, { alpha: 7 }), { alpha: 7 }), adapter);
  });

  test("what does not convert", async () => {
    const tensors = await loadAll(await openTorch(fixture("loralib.pth")));
    const config = expect.objectContaining({ code: "config-invalid" });
    expect(() => fromLoralib(tensors, { alpha: 4 })).toThrow(config);
    expect(() => fromLoralib(tensors, { alpha: 4, enableLora: [true, true, true] })).toThrow(config);
    const full = sample(["h.0.c_attn"]);
    const b = new Map(full.tensors).set(`${PREFIX}h.0.c_attn.lora_B.weight`, normal(6, 2));
    expect(() => toLoralib({ ...full, tensors: b }, { enableLora })).toThrow(/not made of blocks/);
    expect(() => fromLoralib(new Map([["x.weight", normal(1, 1)]]), { alpha: 1 })).toThrow(
      /no low-rank factors/,
    );
    const half = new Map([["x.lora_A", normal(1, 1)]]);
    expect(() => fromLoralib(half, { alpha: 1 })).toThrow(/lora_B/);
  });

  const path = join(
    process.env.TUNESMITH_ASSETS ?? "../shared/assets",
    "models/lora-originals/roberta_base_lora_mnli.bin",
  );
  test.skipIf(!existsSync(path))("the published RoBERTa adapter, a partial checkpoint", async () => {
    const tensors = await loadAll(await openTorch(path));
    const adapter = fromLoralib(tensors, { alpha: 16 });
    expect(adapter.config).toMatchObject({
      r: 8,
      lora_alpha: 16,
      modules_to_save: ["classifier.dense", "classifier.out_proj"],
    });
    expect(adapter.base.size).toBe(0);
    expect(adapter.tensors.size).toBe(tensors.size);
    expect([...toLoralib(adapter)].sort()).toEqual([...tensors].sort());
  });
});
