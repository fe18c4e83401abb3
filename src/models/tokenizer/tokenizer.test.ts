import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import {
  loadTokenizer,
  tokenizerFromJson,
  tokenizerFromLlama2c,
  tokenizerFromSentencePiece,
} from "./index.js";

const FIXTURES = "fixtures/tokenizers";
const TOK512 = `${process.env.TUNESMITH_ASSETS ?? "../shared/assets"}/models/stories260K/tok512.bin`;

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tunesmith-tokenizer-"));
});
afterAll(() => rm(folder, { recursive: true }));

interface JsonCase {
  name: string;
  json: { model: { vocab: Record<string, number>; merges: [string, string][] } };
  texts: string[];
  ids: number[][];
  decoded: string[];
}
const jsonCases = async () => JSON.parse(await readFile(`${FIXTURES}/tokenizers.json`, "utf8")) as JsonCase[];

function streamed(
  tokenizer: { decodeStream(): { push(id: number): string; end(): string } },
  ids: Iterable<number>,
) {
  const stream = tokenizer.decodeStream();
  const parts: string[] = [];
  for (const id of ids) parts.push(stream.push(id));
  parts.push(stream.end());
  return parts;
}

describe("tokenizer.json", () => {
  test("ids and text equal the Rust library's on tricky texts", async () => {
    for (const { name, json, texts, ids, decoded } of await jsonCases()) {
      const tokenizer = await tokenizerFromJson(json);
      texts.forEach((text, index) => {
        expect([...tokenizer.encode(text)], `${name}: ${JSON.stringify(text)}`).toEqual(ids[index]);
        expect(tokenizer.decode(ids[index] ?? []), `${name}: ${JSON.stringify(text)}`).toBe(decoded[index]);
        expect(streamed(tokenizer, ids[index] ?? []).join("")).toBe(decoded[index]);
      });
    }
  });

  test("byte-level text comes back exactly, specials can be left out, unknown ids give nothing", async () => {
    const [gpt2] = await jsonCases();
    if (!gpt2) throw new Error("fixture is empty");
    const tokenizer = await tokenizerFromJson(gpt2.json, { eos_token: "<|endoftext|>" });
    for (const text of gpt2.texts) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect(tokenizer.bosId).toBeUndefined();
    expect(tokenizer.eosId).toBe(0);
    expect(tokenizer.vocabSize).toBe(330);
    const ids = [...tokenizer.encode("a<|endoftext|>b"), 99999];
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("ab");
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.tokenToId("<|endoftext|>")).toBe(0);
    expect(tokenizer.hash).toMatch(/^[0-9a-f]{64}$/);
  });

  test("streams whole characters only", async () => {
    const [gpt2] = await jsonCases();
    const tokenizer = await tokenizerFromJson(gpt2?.json ?? {});
    const parts = streamed(tokenizer, tokenizer.encode("é🎉é"));
    expect(parts.join("")).toBe("é🎉é");
    expect(parts.some((part) => part.includes("\uFFFD"))).toBe(false);
    expect(parts.filter((part) => part === "").length).toBeGreaterThan(2);
    const cut = streamed(tokenizer, tokenizer.encode("🎉").slice(0, 2));
    expect(cut.join("")).toBe("\uFFFD");
  });

  test("a continuation gets neither special tokens nor a prefix space", async () => {
    const llama = (await jsonCases()).find((item) => item.name === "llama");
    const tokenizer = await tokenizerFromJson(llama?.json ?? {}, { bos_token: "<s>" });
    const joined = [
      ...tokenizer.encode("The quick"),
      ...tokenizer.encode(" brown fox", { continuation: true }),
    ];
    expect(tokenizer.decode(joined, { skipSpecialTokens: true })).toBe("The quick brown fox");
    expect(tokenizer.idToToken(tokenizer.encode("fox", { addSpecialTokens: false })[0] ?? -1)).toMatch(
      /^\u2581/,
    );
    expect(tokenizer.idToToken(tokenizer.encode("fox", { continuation: true })[0] ?? -1)).toMatch(/^f/);
  });

  test("names what it cannot use", async () => {
    await expect(tokenizerFromJson({})).rejects.toThrow(/model.vocab/);
    const broken = { model: { type: "BPE", vocab: { a: 0 }, merges: [] }, decoder: { type: "Nonsense" } };
    await expect(tokenizerFromJson(broken)).rejects.toThrow(/Nonsense/);
    const split = {
      model: { type: "BPE", vocab: { a: 0 }, merges: [] },
      pre_tokenizer: { type: "Split", pattern: { String: "x" }, behavior: "MergedWithNext" },
    };
    await expect(tokenizerFromJson(split)).rejects.toThrow(/MergedWithNext/);
  });
});

describe("SentencePiece", () => {
  test("ids and text equal the C++ library's", async () => {
    const cases = JSON.parse(await readFile(`${FIXTURES}/sentencepiece.json`, "utf8")) as {
      model: string;
      text: string;
      ids: number[];
      decoded: string;
    }[];
    for (const { model, text, ids, decoded } of cases) {
      const bytes = await readFile(`${FIXTURES}/${model}.model`);
      const tokenizer = await tokenizerFromSentencePiece(bytes, {}, model);
      const label = `${model}: ${JSON.stringify(text)}`;
      expect([...tokenizer.encode(text, { addSpecialTokens: false })], label).toEqual(ids);
      // Python shows unknown pieces as " ⁇ "; ours show the token.
      if (!ids.includes(tokenizer.unkId ?? -1)) {
        expect(tokenizer.decode(ids), label).toBe(decoded);
        expect(streamed(tokenizer, ids).join(""), label).toBe(decoded);
      }
      expect([...tokenizer.encode(text)]).toEqual([tokenizer.bosId, ...ids]);
    }
  });

  test("special tokens in the text, configuration, added tokens", async () => {
    const bytes = await readFile(`${FIXTURES}/spm-bpe.model`);
    const tokenizer = await tokenizerFromSentencePiece(bytes, {
      add_bos_token: false,
      add_eos_token: true,
      added_tokens_decoder: { "420": { content: "<end>", special: true } },
    });
    const ids = [...tokenizer.encode("fox</s><end>")];
    expect(ids.slice(-3)).toEqual([tokenizer.eosId, tokenizer.tokenToId("<end>"), tokenizer.eosId]);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("fox");
  });

  test("damaged files", async () => {
    const bytes = new Uint8Array(await readFile(`${FIXTURES}/spm-bpe.model`));
    await expect(tokenizerFromSentencePiece(bytes.slice(0, 1000), {}, "cut.model")).rejects.toThrow(
      /cut\.model/,
    );
    await expect(tokenizerFromSentencePiece(new Uint8Array(0), {}, "empty.model")).rejects.toMatchObject({
      code: "file-corrupt",
    });
  });
});

describe("llama2.c", () => {
  const piece = (text: string, score: number) => {
    const bytes = new TextEncoder().encode(text);
    const head = new DataView(new ArrayBuffer(8));
    head.setFloat32(0, score, true);
    head.setInt32(4, bytes.length, true);
    return [...new Uint8Array(head.buffer), ...bytes];
  };
  const file = (extra: [string, number][]) => {
    const bytes = Array.from({ length: 256 }, (_, byte) =>
      piece(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, 0),
    );
    const named = ["<unk>", "\n<s>\n", "\n</s>\n"].map((text) => piece(text, 0));
    return Uint8Array.from([
      7,
      0,
      0,
      0,
      ...named.flat(),
      ...bytes.flat(),
      ...extra.flatMap(([t, s]) => piece(t, s)),
    ]);
  };

  test("merges by score, leftmost first, and falls back to bytes", async () => {
    const tokenizer = await tokenizerFromLlama2c(
      file([
        [" ", -9],
        ["a", -9],
        ["b", -9],
        ["ab", -1],
        ["ba", -1],
        [" a", -2],
        ["aba", -3],
      ]),
    );
    const at = (text: string) => tokenizer.tokenToId(text);
    // "ab" before "ba" (leftmost), then " " stays because "ab" took its "a", then "aba".
    expect([...tokenizer.encode("aba")]).toEqual([1, at(" "), at("aba")]);
    expect([...tokenizer.encode("é", { addSpecialTokens: false })]).toEqual([at(" "), 3 + 0xc3, 3 + 0xa9]);
    expect(tokenizer.decode(tokenizer.encode("b é🎉a"), { skipSpecialTokens: true })).toBe("b é🎉a");
  });

  test("damaged files", async () => {
    await expect(tokenizerFromLlama2c(file([]).slice(0, 500))).rejects.toMatchObject({
      code: "file-corrupt",
    });
    const huge = file([]);
    new DataView(huge.buffer).setInt32(8, 2 ** 31 - 1, true);
    await expect(tokenizerFromLlama2c(huge)).rejects.toMatchObject({ code: "file-corrupt" });
  });

  test.skipIf(!existsSync(TOK512))(
    "the tokenizer of stories260K round trips (needs the assets)",
    async () => {
      const tokenizer = await loadTokenizer(TOK512);
      expect(tokenizer.vocabSize).toBe(512);
      // The ids that llama2.c's run prints for this prompt.
      const text = "Once upon a time, there was a little girl named Lily.\n“Größe” 🎉";
      expect([...tokenizer.encode("Once upon a time")].slice(0, 2)).toEqual([1, 403]);
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: true })).toBe(text);
      expect(streamed(tokenizer, tokenizer.encode(text).slice(1)).join("")).toBe(text);
    },
  );
});

describe("loadTokenizer", () => {
  test("finds tokenizer.json with its configuration", async () => {
    const [gpt2] = await jsonCases();
    const path = join(folder, "json");
    await mkdir(path);
    await writeFile(join(path, "tokenizer.json"), JSON.stringify(gpt2?.json));
    await writeFile(
      join(path, "tokenizer_config.json"),
      JSON.stringify({ eos_token: { content: "<|endoftext|>" }, chat_template: "{{ messages[0].content }}" }),
    );
    const tokenizer = await loadTokenizer(path);
    expect(tokenizer).toMatchObject({
      source: "tokenizer.json",
      eosId: 0,
      chatTemplate: "{{ messages[0].content }}",
    });
  });

  test("a template in a file of its own wins", async () => {
    const path = join(folder, "json");
    await writeFile(join(path, "chat_template.json"), JSON.stringify({ chat_template: "from json" }));
    expect((await loadTokenizer(path)).chatTemplate).toBe("from json");
    await writeFile(join(path, "chat_template.jinja"), "from jinja");
    expect((await loadTokenizer(path)).chatTemplate).toBe("from jinja");
  });

  test("vocab.json and merges.txt give the ids of tokenizer.json", async () => {
    const [gpt2] = await jsonCases();
    if (!gpt2) throw new Error("fixture is empty");
    const path = join(folder, "gpt2");
    await mkdir(path);
    await writeFile(join(path, "vocab.json"), JSON.stringify(gpt2.json.model.vocab));
    const merges = gpt2.json.model.merges.map((pair) => pair.join(" ")).join("\n");
    await writeFile(join(path, "merges.txt"), `#version: 0.2\n${merges}\n`);
    await writeFile(join(path, "special_tokens_map.json"), JSON.stringify({ eos_token: "<|endoftext|>" }));
    const tokenizer = await loadTokenizer(path);
    expect(tokenizer).toMatchObject({ source: "vocab.json+merges.txt", eosId: 0 });
    gpt2.texts.forEach((text, index) => {
      expect([...tokenizer.encode(text)]).toEqual(gpt2.ids[index]);
    });
  });

  test("finds a SentencePiece model", async () => {
    const path = join(folder, "spm");
    await mkdir(path);
    await writeFile(join(path, "tokenizer.model"), await readFile(`${FIXTURES}/spm-bpe.model`));
    expect(await loadTokenizer(path)).toMatchObject({
      source: "sentencepiece",
      bosId: 1,
      eosId: 2,
      unkId: 0,
    });
  });

  test("says what it looked for", async () => {
    const path = join(folder, "none");
    await mkdir(path);
    await writeFile(join(path, "model.safetensors"), "");
    const error = await loadTokenizer(path).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(TunesmithError);
    expect(String(error)).toMatch(/tokenizer\.json.*tokenizer\.model.*vocab\.json.*found model\.safetensors/);
    await writeFile(join(path, "tokenizer.json"), "{ no");
    await expect(loadTokenizer(path)).rejects.toMatchObject({ code: "file-corrupt" });
    await expect(loadTokenizer(join(folder, "missing"))).rejects.toMatchObject({ code: "file-not-found" });
  });
});
