import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadTokenizer, tokenizerFromJson, tokenizerFromSentencePiece } from "./index.js";

interface Case {
  name: string;
  json: object;
  texts: string[];
  ids: number[][];
  decoded: string[];
  pairs: { texts: [string, string]; ids: number[]; types: number[] }[];
  vocab?: string;
  config?: object;
}
const cases = JSON.parse(await readFile("fixtures/tokenizers/pairs.json", "utf8")) as Case[];

describe.each(cases)("$name", ({ name, json, texts, ids, decoded, pairs, vocab, config }) => {
  test("ids and text equal the Rust library's", async () => {
    const tokenizer = await tokenizerFromJson(json);
    texts.forEach((text, at) => {
      expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(ids[at]);
      const back = tokenizer.decode(ids[at] ?? [], { skipSpecialTokens: true });
      expect(back, JSON.stringify(text)).toBe(decoded[at]);
    });
  });

  test("pairs equal the Rust library's", async () => {
    const tokenizer = await tokenizerFromJson(json);
    for (const pair of pairs) {
      const { ids: got, typeIds } = tokenizer.encodePair(...pair.texts);
      expect([...got], JSON.stringify(pair.texts)).toEqual(pair.ids);
      // RoBERTa's models have one type of token; the library counts the second text all the same.
      if (name !== "roberta") expect([...typeIds]).toEqual(pair.types);
    }
    const bare = tokenizer.encodePair("The fox", "the dog", { addSpecialTokens: false });
    expect(bare.ids).toEqual(
      Int32Array.of(
        ...tokenizer.encode("The fox", { addSpecialTokens: false }),
        ...tokenizer.encode("the dog", { addSpecialTokens: false }),
      ),
    );
  });

  test.skipIf(vocab === undefined)("a folder with vocab.txt alone gives the same", async () => {
    const folder = await mkdtemp(join(tmpdir(), "tunesmith-vocab-"));
    await writeFile(join(folder, "vocab.txt"), String(vocab));
    await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(config));
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.source).toBe("vocab.txt");
    texts.forEach((text, at) => {
      expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(ids[at]);
    });
    expect([...tokenizer.encodePair("The fox", "the dog").ids]).toEqual(pairs[0]?.ids);
  });
});

test("a vocab.txt without the tokens around a text is refused", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tunesmith-vocab-"));
  await writeFile(join(folder, "vocab.txt"), "a\nb\n");
  await expect(loadTokenizer(folder)).rejects.toMatchObject({ code: "tokenizer-unsupported" });
});

test("a sentencepiece.bpe.model alone is refused: its ids are not the model's", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tunesmith-spm-"));
  await writeFile(
    join(folder, "sentencepiece.bpe.model"),
    await readFile("fixtures/tokenizers/spm-bpe.model"),
  );
  const refused = { code: "tokenizer-unsupported", message: expect.stringContaining("ids of its pieces") };
  await expect(loadTokenizer(folder)).rejects.toMatchObject(refused);
  await expect(loadTokenizer(join(folder, "sentencepiece.bpe.model"))).rejects.toMatchObject(refused);
});

test("a SentencePiece tokenizer joins pairs", async () => {
  const bytes = await readFile("fixtures/tokenizers/spm-unigram.model");
  const tokenizer = await tokenizerFromSentencePiece(bytes);
  const { ids, typeIds } = tokenizer.encodePair("the sea", "the shells");
  expect([...ids]).toEqual([...tokenizer.encode("the sea"), ...tokenizer.encode("the shells")]);
  expect(typeIds.indexOf(1)).toBe(tokenizer.encode("the sea").length);
});
