import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadFolder, logitsOf } from "../../models/index.js";
import { maxAbsDiff, openSafetensors, type Tensor } from "../../tensor/index.js";
import { loadAdapter, merge, saveAdapter, setActive } from "../index.js";

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
const row = (t: Tensor, at: number): number[] => {
  const width = t.shape[1] as number;
  return Array.from((t.data as BigInt64Array).subarray(at * width, (at + 1) * width), Number);
};

describe.each(cases)("%s", (name) => {
  const folder = `${FIXTURES}peft/${name}`;
  const base = `${FIXTURES}models/${name.split("-")[0]}`;

  test("logits equal the reference's, also merged, saved again and switched off", async () => {
    const expected = await openSafetensors(`${folder}/expected.safetensors`);
    const ids = row(await expected.read("input_ids"), 0);
    const first = async (key: string) => {
      const all = await expected.read(key);
      const width = (all.shape[1] as number) * (all.shape[2] as number);
      return { dtype: all.dtype, shape: [width], data: (all.data as Float32Array).subarray(0, width) };
    };
    const plain = await loadFolder(base);
    const model = await loadAdapter(plain, folder);
    const logits = flat(await logitsOf(model, ids));
    expect(difference(logits, await first("logits"))).toBeLessThan(1e-5);

    const merged = flat(await logitsOf(await merge(model), ids));
    expect(difference(merged, logits)).toBeLessThan(1e-5);
    if (!MERGES_THE_HEAD_TOO.has(name))
      expect(difference(merged, await first("merged_logits"))).toBeLessThan(1e-5);

    const again = join(mkdtempSync(join(tmpdir(), "tunesmith-peft-")), "adapter");
    await saveAdapter(model, again);
    const reloaded = flat(await logitsOf(await loadAdapter(plain, again), ids));
    expect(difference(reloaded, logits)).toBeLessThan(1e-5);

    const off = await logitsOf(setActive(model, []), ids);
    expect(maxAbsDiff(off, await logitsOf(plain, ids))).toBe(0);
  });
});
