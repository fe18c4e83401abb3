import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadFolder } from "../../models/index.js";
import { maxAbsDiff, openSafetensors, type Tensor } from "../../tensor/index.js";
import { loadAdapter, merge, saveAdapter, setActive } from "../index.js";
import { batchLogits } from "../testing/fixtures.js";

const FIXTURES = new URL("../../../fixtures/", import.meta.url).pathname;
const cases = readdirSync(`${FIXTURES}peft`, { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() ? [entry.name] : [],
);
/** PEFT's merge of an adapted tied embedding moves the output head too; ours unties it. */
const MERGES_THE_HEAD_TOO = new Set(["gpt2-embedding"]);

/** Largest difference, relative to the largest logit. */
const difference = (a: Tensor, b: Tensor) =>
  maxAbsDiff(a, b) / Math.max(...Array.from(b.data as Float32Array, Math.abs));
const flat = (t: Tensor): Tensor => ({ ...t, shape: [t.data.length] });
/** Copies of base weights and of shared bases, which PEFT writes too: what they hold lies elsewhere. */
const COPIES = /^base_model\.model\..*\.(base_layer\.weight|randlora_[AB])$/;

async function tensorNames(folder: string): Promise<string[]> {
  const file = await openSafetensors(join(folder, "adapter_model.safetensors"));
  const names = [...file.entries.keys()];
  await file.close();
  return names.filter((each) => !COPIES.test(each)).sort();
}

describe.each(cases)("%s", (name) => {
  const folder = `${FIXTURES}peft/${name}`;
  const base = `${FIXTURES}models/${name.split("-")[0]}`;

  test("logits equal the reference's, also merged, saved again and switched off", async () => {
    const expected = await openSafetensors(`${folder}/expected.safetensors`);
    const ids = await expected.read("input_ids");
    const reference = async (key: string) => flat(await expected.read(key));
    const plain = await loadFolder(base);
    const model = await loadAdapter(plain, folder);
    const logits = flat(await batchLogits(model, ids));
    expect(difference(logits, await reference("logits"))).toBeLessThan(1e-5);

    const adaptation = model.adapters.get("default")?.adaptation;
    if (adaptation?.method.unmergeable?.(adaptation.config) === undefined) {
      const merged = flat(await batchLogits(await merge(model), ids));
      expect(difference(merged, logits)).toBeLessThan(1e-5);
      if (expected.entries.has("merged_logits") && !MERGES_THE_HEAD_TOO.has(name))
        expect(difference(merged, await reference("merged_logits"))).toBeLessThan(1e-5);
    } else {
      expect(expected.entries.has("merged_logits")).toBe(false);
      await expect(merge(model)).rejects.toMatchObject({ code: "not-mergeable" });
    }

    const again = join(mkdtempSync(join(tmpdir(), "tunesmith-peft-")), "adapter");
    await saveAdapter(model, again);
    expect(await tensorNames(again)).toEqual(await tensorNames(folder));
    const reloaded = flat(await batchLogits(await loadAdapter(plain, again), ids));
    expect(difference(reloaded, logits)).toBeLessThan(1e-5);

    const off = await batchLogits(setActive(model, []), ids);
    expect(maxAbsDiff(off, await batchLogits(plain, ids))).toBe(0);
  });
});
