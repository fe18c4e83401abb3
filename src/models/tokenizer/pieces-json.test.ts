import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { loadTokenizer, tokenizerFromJson } from "./index.js";

const FIXTURES = "fixtures/tokenizers";
const TOK512 = `${process.env.TUNESMITH_ASSETS ?? "../shared/assets"}/models/stories260K/tok512.bin`;
const TEXTS = [
  "Once upon a time, there was a little girl.",
  "two  spaces and three   spaces",
  " leading and trailing ",
  "line\nbreak\ttab",
  "naïve café — “quotes” …",
  "emoji 🙂 and 漢字",
  "",
  "1234 + 5678 = 6912",
];

test.each(["spm-bpe.model", "spm-unigram.model", "spm-unigram-bytes.model"])(
  "%s as tokenizer.json: the same ids and text",
  async (file) => {
    const tokenizer = await loadTokenizer(`${FIXTURES}/${file}`);
    const json = JSON.parse(JSON.stringify(tokenizer.toJson())) as object;
    const again = await tokenizerFromJson(json, {});
    const { texts } = JSON.parse(await readFile(`${FIXTURES}/sentencepiece.json`, "utf8")) as {
      texts?: string[];
    };
    for (const text of [...TEXTS, ...(texts ?? [])]) {
      const ids = [...tokenizer.encode(text)];
      expect([...again.encode(text)], JSON.stringify(text)).toEqual(ids);
      const plain = { skipSpecialTokens: true };
      expect(again.decode(ids, plain), JSON.stringify(text)).toBe(tokenizer.decode(ids, plain));
    }
  },
);

test.skipIf(!existsSync(TOK512))("llama2.c's vocabulary as tokenizer.json", async () => {
  const tokenizer = await loadTokenizer(TOK512);
  const again = await tokenizerFromJson(tokenizer.toJson(), {});
  for (const text of TEXTS) expect([...again.encode(text)], text).toEqual([...tokenizer.encode(text)]);
});
