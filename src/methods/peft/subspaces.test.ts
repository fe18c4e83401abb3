import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openSafetensors, type Tensor, writeSafetensors } from "../../tensor/index.js";
import { adamss, adapt, frod, loadAdapter, saveAdapter } from "../index.js";
import { baseModel, fixture, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";

const temporary = () => join(mkdtempSync(join(tmpdir(), "tunesmith-subspaces-")), "adapter");
const configOf = (folder: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));

/** A copy of a fixture with other options in its config. */
function edited(name: string, options: Readonly<Record<string, unknown>>): string {
  const folder = temporary();
  cpSync(fixture(`peft/${name}`), folder, { recursive: true });
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ ...configOf(folder), ...options }));
  return folder;
}

const loading = async (folder: string) => loadAdapter(await baseModel("llama"), folder);

describe("PEFT's options that are not supported together are refused by name", () => {
  const kasa_config = { beta: 1e-4, gamma: 1e-3 };
  const cases: [string, string, Record<string, unknown>, RegExp][] = [
    ["kasa and dora", "llama-kasa", { use_dora: true }, /'use_dora' beside 'kasa_config'/],
    ["kasa and a start", "llama-kasa", { init_lora_weights: "pissa" }, /'init_lora_weights' beside/],
    ["qalora and biases", "llama-qalora", { lora_bias: true }, /'lora_bias' beside 'use_qalora'/],
    ["bdlora and kasa", "llama-bdlora", { kasa_config }, /'kasa_config' is set/],
    ["bdlora and alora", "llama-bdlora", { alora_invocation_tokens: [1] }, /'use_bdlora' is set/],
    ["frod without its basis", "llama-frod", { save_projection: false }, /save_projection/],
  ];
  test.each(cases)("%s", async (_, name, options, message) => {
    await expect(loading(edited(name, options))).rejects.toMatchObject({
      code: "adapter-invalid",
      message: expect.stringMatching(message),
    });
  });
});

describe("AdaMSS", () => {
  test("a file whose clusters have other sizes than those found here is refused, with the sizes", async () => {
    const folder = edited("llama-adamss", {});
    const path = join(folder, "adapter_model.safetensors");
    const file = await openSafetensors(path);
    const tensors = new Map<string, Tensor>();
    for (const name of file.entries.keys()) tensors.set(name, await file.read(name));
    await file.close();
    // A row of the first cluster goes to the second.
    const names = [0, 1].map((at) => `base_model.model.model.layers.0.mlp.down_proj.adamss_B.${at}`);
    const [from, to] = names.map((name) => tensors.get(name) as Tensor) as [Tensor, Tensor];
    const rows = ({ shape, data }: Tensor, count: number): Tensor => {
      const [, width] = shape as [number, number];
      const longer = Float32Array.from({ length: count * width }, (_, at) => Number(data[at] ?? 0));
      return { dtype: "float32", shape: [count, width], data: longer };
    };
    tensors.set(names[0] as string, rows(from, Number(from.shape[0]) - 1));
    tensors.set(names[1] as string, rows(to, Number(to.shape[0]) + 1));
    await writeSafetensors(path, tensors, { metadata: { format: "pt" } });
    await expect(loading(folder)).rejects.toMatchObject({
      code: "adapter-invalid",
      message: expect.stringMatching(/down_proj fall into clusters of \d+, \d+, \d+ here, not of/),
    });
  });

  test("a rank that takes in all outputs is refused: there are no clusters", async () => {
    const base = await baseModel("llama");
    await expect(adapt(base, adamss({ targets: ["q_proj"] }))).rejects.toMatchObject({
      code: "config-invalid",
      message: expect.stringMatching(/rank 100 takes in all 24 outputs/),
    });
  });

  test("with a bias, its part of the update goes there", async () => {
    const base = await baseModel("qwen2");
    const model = randomise(await adapt(base, adamss({ rank: 6, subspaces: 3, targets: ["q_proj"] })));
    const b = [...model.parameters.values()].find(({ name }) => name.endsWith("newB"));
    expect(b?.tensor.shape[1]).toBe(
      1 + Number(base.weights.get("model.layers.0.self_attn.q_proj.weight")?.shape[1]),
    );
    const folder = temporary();
    await saveAdapter(model, folder);
    const again = await loadAdapter(base, folder);
    expect(relativeDifference(await probeLogits(again), await probeLogits(model))).toBeLessThan(1e-6);
  });
});

test("FRoD: PEFT reads its own bases only, so others are not written as its adapters", async () => {
  const [kept, own] = [temporary(), temporary()];
  await saveAdapter(await loading(fixture("peft/llama-frod")), kept);
  expect(configOf(kept)).toMatchObject({ peft_type: "FROD", save_projection: true });
  const base = await baseModel("llama");
  const model = randomise(await adapt(base, frod({ targets: ["q_proj"], bias: "adapted" })), 1, 0.05);
  await saveAdapter(model, own);
  expect(configOf(own)).toMatchObject({ peft_type: "TUNESMITH", method: "frod" });
  const again = await loadAdapter(base, own);
  expect(relativeDifference(await probeLogits(again), await probeLogits(model))).toBeLessThan(1e-6);
  await expect(adapt(base, frod({ basis: "peft", targets: ["q_proj"] }))).rejects.toMatchObject({
    code: "config-invalid",
  });
});

test("OSF: patterns that PEFT searches anywhere in a path keep their meaning in both directions", async () => {
  const folder = temporary();
  const model = await loading(fixture("peft/llama-osf"));
  await saveAdapter(model, folder);
  const written = configOf(folder).rank_pattern as Record<string, number>;
  const found = (path: string) => Object.entries(written).find(([key]) => new RegExp(key).test(path))?.[1];
  expect(found("model.layers.1.mlp.down_proj")).toBe(20);
  expect(found("model.layers.0.mlp.down_proj")).toBeUndefined();
  expect(found("model.layers.0.mlp.up_proj")).toBe(0.75);
});
