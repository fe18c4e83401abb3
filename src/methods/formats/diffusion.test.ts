import { describe, expect, test } from "vitest";
import { expectSameDeltas, names, normal, PREFIX, sample } from "../../../test/support/adapter-formats.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import {
  DIFFUSERS_METADATA_KEY,
  fromDiffusers,
  fromKohya,
  type PeftTensors,
  toDiffusers,
  toKohya,
} from "./index.js";
import { fromPeft } from "./parts.js";

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
