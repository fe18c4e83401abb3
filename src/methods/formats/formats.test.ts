import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { rng } from "../../runtime/index.js";
import {
  loadAll,
  openGguf,
  openSafetensors,
  openTorch,
  type Tensor,
  tensor,
  toFloat32,
} from "../../tensor/index.js";
import {
  DIFFUSERS_METADATA_KEY,
  fromDiffusers,
  fromGgufLora,
  fromKohya,
  fromLoralib,
  fromMlx,
  ggufArchitectures,
  type PeftTensors,
  toDiffusers,
  toGgufLora,
  toKohya,
  toLoralib,
  toMlx,
} from "./index.js";
import { fromPeft, type LoraModule, toPeft } from "./parts.js";

const fixture = (name: string) =>
  fileURLToPath(new URL(`../../../fixtures/adapter-formats/${name}`, import.meta.url));
const json = (name: string) => JSON.parse(readFileSync(fixture(name), "utf8"));
const names = json("names.json") as {
  kohya: Record<string, string[]>;
  diffusers: Record<string, string>;
  gguf: Record<string, Record<string, string>>;
};
const tensorsOf = async (name: string) =>
  loadAll({ tensors: (await openSafetensors(fixture(name))).entries });

const random = rng(3);
const normal = (...shape: number[]) => {
  const count = shape.reduce((product, length) => product * length, 1);
  return tensor(
    "float32",
    shape,
    Float32Array.from({ length: count }, () => random.normal()),
  );
};
const PREFIX = "base_model.model.";

/** scale·B·A of a matrix or embedding; the change of an embedding is its transpose. */
function deltaOf({ a, b, scale, embedding }: LoraModule): number[] {
  const [rank = 0, columns = 0] = a.shape;
  const rows = b.shape[0] ?? 0;
  const [left, right] = [toFloat32(b), toFloat32(a)];
  const out: number[] = [];
  for (let i = 0; i < rows * columns; i++) {
    const [row, column] = embedding
      ? [i % rows, Math.floor(i / rows)]
      : [Math.floor(i / columns), i % columns];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += Number(left[row * rank + k]) * Number(right[k * columns + column]);
    out.push(scale * sum);
  }
  return out;
}

const deltas = (adapter: PeftTensors): Map<string, number[]> =>
  new Map(fromPeft(adapter).modules.map((module) => [module.path, deltaOf(module)]));

function expectClose(found: readonly number[] | undefined, wanted: ArrayLike<number>, name = ""): void {
  const largest = Math.max(...Array.from(wanted, Math.abs), 1e-30);
  const worst = Math.max(...Array.from(wanted, (value, i) => Math.abs(value - (found?.[i] ?? Number.NaN))));
  expect([name, found?.length, worst < 1e-5 * largest]).toEqual([name, wanted.length, true]);
}

function expectSameDeltas(found: PeftTensors, wanted: PeftTensors): void {
  const [a, b] = [deltas(found), deltas(wanted)];
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
  for (const [path, values] of b) expectClose(a.get(path), values, path);
}

/** An adapter whose ranks and scales differ between modules. */
function sample(paths: readonly string[], config: Record<string, unknown> = {}): PeftTensors {
  const tensors = new Map<string, Tensor>();
  const rank_pattern: Record<string, number> = {};
  paths.forEach((path, index) => {
    const rank = 2 + (index % 2);
    if (rank !== 2) rank_pattern[path] = rank;
    tensors.set(`${PREFIX}${path}.lora_A.weight`, normal(rank, 8));
    tensors.set(`${PREFIX}${path}.lora_B.weight`, normal(8, rank));
  });
  return {
    tensors,
    config: {
      peft_type: "LORA",
      r: 2,
      lora_alpha: 3,
      rank_pattern,
      alpha_pattern: { [String(paths[0])]: 5 },
      ...config,
    },
  };
}

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

describe("kohya", () => {
  const [a, b] = [normal(2, 3), normal(3, 2)];
  const file = (flat: string) =>
    new Map([
      [`${flat}.lora_down.weight`, a],
      [`${flat}.lora_up.weight`, b],
      [`${flat}.alpha`, tensor("float16", [], [1])],
    ]);

  test.each(Object.entries(names.kohya))("%s", (flat, expected) => {
    const found = [...fromKohya(file(flat))].flatMap(([component, adapter]) =>
      [...adapter.tensors.keys()].map((name) => name.replace(PREFIX, `${component}.`)),
    );
    expect(found.sort()).toEqual(expected);
  });

  test("alpha, its absence, and names by the modules of the base", () => {
    const flat = "lora_unet_odd_name_x";
    const modules = { unet: ["odd_name.x", "odd.name.y"] };
    const adapter = fromKohya(file(flat), { modules }).get("unet");
    expect(adapter?.config).toMatchObject({ r: 2, lora_alpha: 1, target_modules: ["odd_name.x"] });
    const without = file(flat);
    without.delete(`${flat}.alpha`);
    expect(fromKohya(without, { modules }).get("unet")?.config.lora_alpha).toBe(2);
    expect(() => fromKohya(file("lora_unet_other"), { modules })).toThrow(/'other' is no module of unet/);
  });

  test("round trip, DoRA and convolutions included", () => {
    const unet = sample(["down_blocks.0.attentions.1.to_q", "mid_block.resnets.0.conv1"]);
    const conv = new Map(unet.tensors);
    const name = `${PREFIX}mid_block.resnets.0.conv1`;
    conv.set(`${name}.lora_A.weight`, normal(3, 4, 3, 3)).set(`${name}.lora_B.weight`, normal(8, 3, 1, 1));
    const text = sample(["text_model.encoder.layers.0.self_attn.q_proj"], { use_dora: true });
    const magnitude = `${PREFIX}text_model.encoder.layers.0.self_attn.q_proj.lora_magnitude_vector`;
    const dora = { ...text, tensors: new Map(text.tensors).set(magnitude, normal(8)) };
    const written = toKohya(
      new Map([
        ["unet", { ...unet, tensors: conv }],
        ["text_encoder", dora],
      ]),
    );
    expect([...written.keys()]).toContain("lora_unet_mid_block_resnets_0_conv1.lora_down.weight");
    expect(written.get("lora_te_text_model_encoder_layers_0_self_attn_q_proj.dora_scale")?.shape).toEqual([
      8, 1,
    ]);
    const again = fromKohya(written);
    expect([...(again.get("unet")?.tensors ?? [])]).toEqual([...conv]);
    expect([...(again.get("text_encoder")?.tensors ?? [])]).toEqual([...dora.tensors]);
    const scales = (adapter: PeftTensors | undefined) =>
      adapter && fromPeft(adapter).modules.map(({ scale }) => scale);
    expect(scales(again.get("unet"))).toEqual([5 / 2, 1]);
  });

  test("what does not convert", () => {
    expect(() => fromKohya(new Map([["lora_unet_x.hada_w1_a", a]]))).toThrow(/LoHa/);
    expect(() => fromKohya(new Map([["lora_unet_x.lora_down.weight", a]]))).toThrow(/lora_up/);
    expect(() => fromKohya(new Map([["model.x.lora_a", a]]))).toThrow(/kohya/);
    const scale = file("lora_unet_x").set("lora_unet_x.dora_scale", normal(1, 3));
    expect(() => fromKohya(scale)).toThrow(/output rows/);
    expect(() => toKohya(new Map([["vae", sample(["x"])]]))).toThrow(/no part 'vae'/);
  });
});

describe("diffusers", () => {
  test("old names", () => {
    const value = new Map([
      ["lora_A", normal(2, 3)],
      ["lora_B", normal(3, 2)],
    ]);
    const file = new Map(
      Object.entries(names.diffusers).map(([old, name]) => [
        old,
        value.get(name.includes("lora_A") ? "lora_A" : "lora_B") as Tensor,
      ]),
    );
    const found = [...fromDiffusers(file)].flatMap(([component, adapter]) =>
      [...adapter.tensors.keys()].map((name) => name.replace(PREFIX, `${component}.`)),
    );
    expect(found.sort()).toEqual(Object.values(names.diffusers).sort());
  });

  test("old text encoders, and alpha tensors", () => {
    const old = "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora";
    const file = new Map([
      [`${old}.down.weight`, normal(2, 3)],
      [`${old}.up.weight`, normal(3, 2)],
      ["text_encoder.text_model.encoder.layers.0.self_attn.out_proj.alpha", tensor("float32", [1], [6])],
    ]);
    const adapter = fromDiffusers(file).get("text_encoder");
    expect(adapter?.config).toMatchObject({
      r: 2,
      lora_alpha: 6,
      target_modules: ["text_model.encoder.layers.0.self_attn.out_proj"],
    });
  });

  test("round trip: scales travel in the metadata, and are 1 without it", () => {
    const components = new Map([
      ["unet", sample(["a.to_q", "a.to_k", "a.to_out.0"])],
      ["text_encoder_2", sample(["b.q_proj"], { use_rslora: true })],
    ]);
    const { tensors, metadata } = toDiffusers(components);
    expect([...tensors.keys()][0]).toBe("unet.a.to_q.lora_A.weight");
    const again = fromDiffusers(tensors, new Map(Object.entries(metadata)));
    for (const [component, adapter] of components) {
      const found = again.get(component);
      if (!found) throw new Error(component);
      expect([...found.tensors]).toEqual([...adapter.tensors]);
      expectSameDeltas(found, adapter);
    }
    expect(fromDiffusers(tensors).get("unet")?.config.lora_alpha).toBe(2);
    expect(() => fromDiffusers(tensors, new Map([[DIFFUSERS_METADATA_KEY, "{"]]))).toThrow(/damaged/);
    expect(() => fromDiffusers(new Map([["unet.x.weight", normal(1, 1)]]))).toThrow(/diffusers/);
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
