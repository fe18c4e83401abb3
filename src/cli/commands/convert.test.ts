import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { adapt, lora, merge, saveAdapter } from "../../methods/index.js";
import { initTensorModel, loadModel, saveModel, type TensorModel } from "../../models/index.js";
import { convertSchema } from "../config/schema.js";
import type { Ui } from "../ui.js";
import { runConvert } from "./convert.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-convert-"));

async function convert(given: Readonly<Record<string, unknown>>) {
  let result: Record<string, unknown> = {};
  const ui: Ui = {
    json: false,
    say: () => {},
    write: () => {},
    note: () => {},
    result: (value) => {
      result = { ...value };
    },
    progress: () => ({ update: () => {}, stop: () => {} }),
  };
  const { signal } = new AbortController();
  await runConvert(convertSchema.parse(given), { ui, signal, origins: {} });
  return result;
}

test("a model of any task is a base; options for another format are refused", async () => {
  const sizes = { hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2 };
  const config = { model_type: "bert", vocab_size: 20, ...sizes, max_position_embeddings: 16 };
  const base = join(folder, "bert");
  await saveModel(initTensorModel(config, { task: "masked-lm" }), base);
  const model = await loadModel(base, { task: "masked-lm" });
  const adapted = await adapt(model, lora({ rank: 2, init: "gaussian" }));
  for (const { name, tensor } of adapted.parameters.values())
    if (name.endsWith("lora_B")) (tensor.data as Float32Array).fill(0.1);
  const adapter = join(folder, "adapter");
  await saveAdapter(adapted, adapter);

  const mlx = await convert({ adapter, to: "mlx", model: base, out: join(folder, "mlx") });
  expect(mlx).toMatchObject({ from: "peft", to: "mlx", tensors: 4 });
  const to = { adapter, to: "mlx", out: join(folder, "other") };
  await expect(convert({ ...to, alpha: 3 })).rejects.toThrow(/--alpha is for loralib checkpoints/);
  await expect(convert({ ...to, from: "mlx" })).rejects.toThrow(/is peft, not mlx/);

  const tuned = join(folder, "tuned");
  await saveModel(await merge(adapted), tuned);
  const delta = join(folder, "new/delta");
  expect((await convert({ adapter: tuned, to: "delta", model: base, out: delta })).changed).toHaveLength(2);
  const again = join(folder, "again");
  await convert({ adapter: delta, to: "model", model: base, out: again });
  const { task } = (await loadModel(again, { task: "auto" })) as TensorModel;
  expect(task).toBe("masked-lm");
});
