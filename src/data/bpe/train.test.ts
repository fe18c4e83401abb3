import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { tokenizerFromJson } from "../../models/tokenizer/index.js";
import { trainBpe } from "./index.js";

interface Case {
  texts: string[];
  vocabSize: number;
  minFrequency: number;
  merges: string[];
  size: number;
}
const cases = JSON.parse(await readFile("fixtures/tokenizers/bpe-training.json", "utf8")) as Case[];

test("merges equal the Python tokenizers trainer's", () => {
  expect(cases.length).toBeGreaterThan(2);
  for (const { texts, merges, size, ...options } of cases) {
    const json = trainBpe(texts, options);
    expect(json.model.merges.map((pair) => pair.join(" "))).toEqual(merges);
    expect(Object.keys(json.model.vocab)).toHaveLength(size);
  }
});

test("any text round trips, and the result is deterministic", async () => {
  const texts = cases[0]?.texts ?? [];
  const json = trainBpe(texts, { vocabSize: 400 });
  expect(JSON.stringify(trainBpe(texts, { vocabSize: 400 }))).toBe(JSON.stringify(json));
  const tokenizer = await tokenizerFromJson(json, { eos_token: "<|endoftext|>" });
  for (const text of [...texts, "unseen ☃ 🎉 \u0000\u0085\ufeff", "\r\n\t ", "a<|endoftext|>b"]) {
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  }
  expect(tokenizer.eosId).toBe(0);
  const bytes = new TextEncoder().encode(texts.join("")).length;
  expect(tokenizer.encode(texts.join("")).length).toBeLessThan(bytes / 1.8);
});

test("bad requests", () => {
  expect(() => trainBpe(["a"], { vocabSize: 100 })).toThrow(/at least 257/);
  expect(() => trainBpe([""], { vocabSize: 300 })).toThrow(/hold nothing/);
});
