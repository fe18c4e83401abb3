import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { initModel } from "../../models/index.js";
import { openSafetensors, tensor, writeSafetensors } from "../../tensor/index.js";
import { type AdaptedLm, adapt, lily, loadAdapter, saveAdapter } from "../index.js";
import { batchLogits, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";

const base = initModel(
  {
    model_type: "llama",
    vocab_size: 64,
    hidden_size: 16,
    intermediate_size: 32,
    num_hidden_layers: 3,
    num_attention_heads: 2,
  },
  { seed: 2 },
);
const folder = () => mkdtempSync(join(tmpdir(), "tunesmith-lily-"));

/** Names of the tensors that modules read as A and as B. */
function sharing(model: AdaptedLm, key: "lily_A" | "lily_B") {
  const sites = [...(model.adapters.get("default")?.sites ?? [])];
  return sites.map(([path, { tensors }]) => [path.replace("model.layers.", ""), tensors[key]?.name]);
}
const leaders = (model: AdaptedLm, key: "lily_A" | "lily_B") =>
  Object.fromEntries(
    sharing(model, key).map(([path, name]) => [
      path,
      name?.replace(/^default\/model\.layers\.|\.lily_.$/g, ""),
    ]),
  );

test("A is shared by neighbouring modules of one name, B by all of them", async () => {
  const model = await adapt(base, lily({ rank: 2, stride: 2, targets: ["q_proj", "down_proj"] }));
  expect(leaders(model, "lily_A")).toEqual({
    "0.self_attn.q_proj": "0.self_attn.q_proj",
    "1.self_attn.q_proj": "0.self_attn.q_proj",
    "2.self_attn.q_proj": "2.self_attn.q_proj",
    "0.mlp.down_proj": "0.mlp.down_proj",
    "1.mlp.down_proj": "0.mlp.down_proj",
    "2.mlp.down_proj": "2.mlp.down_proj",
  });
  expect(new Set(Object.values(leaders(model, "lily_B")))).toEqual(
    new Set(["0.self_attn.q_proj", "0.mlp.down_proj"]),
  );
  const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
  // Two A and one B for each name, and a router for each module.
  expect(trained.length).toBe(2 * (2 + 1) + 6);
});

test("an expression names one group of each shape, the name of a longer target wins", async () => {
  const one = await adapt(base, lily({ rank: 2, targets: ".*self_attn.[qk]_proj" }));
  expect(new Set(Object.values(leaders(one, "lily_B")))).toEqual(new Set(["0.self_attn.q_proj"]));
  const two = await adapt(base, lily({ rank: 2, targets: ["q_proj", "0.self_attn.q_proj"] }));
  expect(leaders(two, "lily_B")).toEqual({
    "0.self_attn.q_proj": "0.self_attn.q_proj",
    "1.self_attn.q_proj": "1.self_attn.q_proj",
    "2.self_attn.q_proj": "1.self_attn.q_proj",
  });
});

test.each(["all-linear", ".*self_attn.[qk]_proj"])(
  "loaded again, modules of %s share as they did",
  async (targets) => {
    const model = randomise(await adapt(base, lily({ rank: 2, stride: 2, targets })), 1, 0.1);
    const out = folder();
    await saveAdapter(model, out);
    const loaded = await loadAdapter(base, out);
    expect(sharing(loaded, "lily_A")).toEqual(sharing(model, "lily_A"));
    expect(sharing(loaded, "lily_B")).toEqual(sharing(model, "lily_B"));
    expect(relativeDifference(await probeLogits(loaded), await probeLogits(model))).toBeLessThan(1e-6);
    const config = JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8")) as Record<
      string,
      unknown
    >;
    expect(config.tunesmith_targets).toBe(targets);
  },
);

test("copies that differ are an error that names one", async () => {
  const model = randomise(await adapt(base, lily({ rank: 2, targets: ["q_proj"] })), 1, 0.1);
  const out = folder();
  await saveAdapter(model, out);
  const path = join(out, "adapter_model.safetensors");
  const file = await openSafetensors(path);
  const names = [...file.entries.keys()];
  const tensors = new Map(
    await Promise.all(names.map(async (name) => [name, await file.read(name)] as const)),
  );
  await file.close();
  const copy = names.find((name) => name.includes("layers.2.") && name.includes("lily_B")) as string;
  const { shape, data } = tensors.get(copy) as NonNullable<ReturnType<typeof tensors.get>>;
  tensors.set(
    copy,
    tensor(
      "float32",
      shape,
      (data as Float32Array).map((value) => value + 1),
    ),
  );
  await writeSafetensors(path, tensors, {});
  await expect(loadAdapter(base, out)).rejects.toThrow(
    /layers\.2\.self_attn\.q_proj\.lily_B\.weight' is not the one/,
  );
});

test("a row depends on the rows beside it", async () => {
  const model = randomise(await adapt(base, lily({ rank: 4, targets: ["q_proj", "up_proj"] })), 1, 0.5);
  const row = [3, 17, 40, 5];
  const ids = (rows: readonly (readonly number[])[]) => tensor("int64", [rows.length, 4], rows.flat());
  const logits = async (rows: readonly (readonly number[])[]) => {
    const { data } = await batchLogits(model, ids(rows));
    return tensor("float32", [4 * 64], (data as Float32Array).slice(0, 4 * 64));
  };
  const alone = await logits([row]);
  expect(relativeDifference(await logits([row, row]), alone)).toBeLessThan(1e-5);
  expect(relativeDifference(await logits([row, [1, 2, 60, 9]]), alone)).toBeGreaterThan(1e-4);
});
