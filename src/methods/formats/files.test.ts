import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { adapt, applyDelta, loadAdapter, lora, merge, saveAdapter, saveDelta } from "../index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";
import { type AdapterFormat, readAdapterFile, writeAdapterFile } from "./files.js";

const folder = () => mkdtempSync(join(tmpdir(), "tunesmith-formats-"));

/** A trained adapter on the small Llama, and its PEFT folder. */
async function trained(config: Parameters<typeof lora>[0] = {}) {
  const base = await baseModel("llama");
  const model = randomise(
    await adapt(base, lora({ rank: 4, alpha: 12, targets: ["q_proj", "v_proj"], ...config })),
  );
  const path = folder();
  await saveAdapter(model, path);
  return { base, model, path };
}

const OPTIONS = { architecture: "llama", modelType: "llama", component: "text_encoder" };

describe.each<[AdapterFormat, string]>([
  ["peft", ""],
  ["mlx", ""],
  ["gguf", "adapter.gguf"],
  ["kohya", "adapter.safetensors"],
])("%s", (format, file) => {
  test("an adapter goes there and back, and is loaded from there, with the same outputs", async () => {
    const { base, model, path } = await trained();
    const sizes = {
      ...OPTIONS,
      heads: base.sizes.heads,
      kvHeads: base.sizes.kvHeads,
      layers: base.sizes.layers,
    };
    const target = join(folder(), file);
    await writeAdapterFile(await readAdapterFile(path), target, format, sizes);
    const expected = await probeLogits(model);
    if (format !== "kohya") {
      const direct = await loadAdapter(base, target);
      expect(relativeDifference(await probeLogits(direct), expected)).toBeLessThan(1e-5);
    }
    const back = join(folder(), "peft");
    await writeAdapterFile(await readAdapterFile(target, sizes), back, "peft", sizes);
    // Kohya's underscores are resolved by a table of words; the component is the first of a pipeline.
    const loaded = await loadAdapter(base, back);
    expect(relativeDifference(await probeLogits(loaded), expected)).toBeLessThan(1e-5);
  });
});

test("a folder with a pickle is read without running it", async () => {
  const { base, model, path } = await trained();
  const config = JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8")) as object;
  const other = folder();
  writeFileSync(join(other, "adapter_config.json"), JSON.stringify(config));
  // What is not a pickle at all is named.
  writeFileSync(join(other, "adapter_model.bin"), "not a pickle");
  await expect(loadAdapter(base, other)).rejects.toMatchObject({
    code: expect.stringMatching(/file-corrupt|format-unsupported/),
  });
  expect(model.adapters.size).toBe(1);
});

test("a fully tuned model is its base and a delta, and another base is refused", async () => {
  const { base, model } = await trained();
  const merged = await merge(model);
  const path = folder();
  const report = await saveDelta(base, merged, path);
  expect(report.changed.length).toBe(4);
  const again = await applyDelta(base, path);
  expect(relativeDifference(await probeLogits(again), await probeLogits(merged))).toBeLessThan(1e-6);
  await expect(applyDelta(merged, path)).rejects.toMatchObject({ code: "wrong-base" });
  await expect(saveDelta(base, base, folder())).rejects.toMatchObject({ code: "adapter-no-effect" });
});

test("an unknown file and a loralib checkpoint without its alpha are named", async () => {
  const path = join(folder(), "adapter.xyz");
  writeFileSync(path, "?");
  await expect(readAdapterFile(path)).rejects.toMatchObject({ code: "format-unsupported" });
  const checkpoint = join(folder(), "lora.bin");
  writeFileSync(checkpoint, "?");
  await expect(readAdapterFile(checkpoint)).rejects.toMatchObject({
    code: "config-invalid",
    message: expect.stringContaining("alpha"),
  });
});
