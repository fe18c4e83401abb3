import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { defaultModelPath } from "./default-model.js";
import { generate } from "./generate/index.js";
import { loadModel } from "./load.js";
import { logitsOf } from "./probe.js";
import type { CausalLm } from "./types.js";

interface Hashed {
  readonly bytes: number;
  readonly sha256: string;
}
interface Provenance {
  readonly parameters: number;
  readonly files: Readonly<Record<string, Hashed>>;
  readonly corpus: { readonly packages: readonly { readonly package: string; readonly licence: string }[] };
  readonly evaluation: {
    readonly heldOutText: { readonly file: string; readonly sha256: string; readonly perplexity: number };
  };
}

const sha256 = (content: Uint8Array | string) => createHash("sha256").update(content).digest("hex");
let folder: string;
let provenance: Provenance;
let model: CausalLm;

beforeAll(async () => {
  folder = await defaultModelPath();
  provenance = JSON.parse(readFileSync(join(folder, "provenance.json"), "utf8")) as Provenance;
  model = await loadModel(folder);
});

test("the files are those that pre-training wrote, and small", () => {
  const names = Object.keys(provenance.files);
  expect(names).toContain("model.safetensors");
  for (const name of names) {
    const content = readFileSync(join(folder, name));
    expect(sha256(content), name).toBe(provenance.files[name]?.sha256);
  }
  expect(provenance.files["model.safetensors"]?.bytes).toBeLessThan(4e6);
  const licences = new Set(provenance.corpus.packages.map(({ licence }) => licence));
  for (const licence of licences) expect(licence).toMatch(/MIT|Apache-2\.0|ISC|BSD/);
});

test("it has the parameters it claims, and its tokenizer its vocabulary", () => {
  const sizes = [...model.weights.values()].map(({ shape }) =>
    shape.reduce<number>((a, b) => a * Number(b), 1),
  );
  expect(sizes.reduce((a, b) => a + b, 0)).toBe(provenance.parameters);
  expect(model.tokenizer?.vocabSize).toBe(model.sizes.vocabSize);
});

/** exp of the mean cross-entropy of a text's tokens, read in rows that overlap by one token; written plainly. */
async function perplexity(text: string): Promise<number> {
  const length = model.sizes.maxPositions;
  const ids = [...(model.tokenizer?.encode(text) ?? []), model.tokenizer?.eosId ?? 0];
  let [sum, count] = [0, 0];
  for (let start = 0; start + 1 < ids.length; start += length - 1) {
    const row = ids.slice(start, start + length);
    const { data, shape } = await logitsOf(model, row);
    const width = shape[1] as number;
    for (let at = 0; at + 1 < row.length; at++) {
      const logits = (data as Float32Array).subarray(at * width, (at + 1) * width);
      const top = logits.reduce((a, b) => Math.max(a, b));
      const total = logits.reduce((a, b) => a + Math.exp(b - top), 0);
      sum += Math.log(total) + top - (logits[row[at + 1] as number] as number);
      count++;
    }
  }
  return Math.exp(sum / count);
}

test("its perplexity on a text it has not seen is the recorded one, far below a uniform model's", async () => {
  const { file, sha256: hash, perplexity: recorded } = provenance.evaluation.heldOutText;
  const text = readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
  expect(sha256(text)).toBe(hash);
  const measured = await perplexity(text);
  expect(Math.abs(measured / recorded - 1)).toBeLessThan(1e-3);
  expect(measured).toBeLessThan(model.sizes.vocabSize / 20);
});

test("it writes text, the same for the same seed", async () => {
  const options = { maxTokens: 16, temperature: 0.7, seed: 3 };
  const first = await generate(model, "export interface Options {\n", options);
  expect(first.text.length).toBeGreaterThan(8);
  expect((await generate(model, "export interface Options {\n", options)).ids).toEqual(first.ids);
});

test("a folder without the files is an error that names one", async () => {
  const nowhere = new URL("../../fixtures/default-model/", import.meta.url);
  await expect(defaultModelPath(nowhere)).rejects.toThrow(/config\.json/);
});
