import { existsSync, readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { constant } from "../../graph/index.js";
import { maxAbsDiff, openSafetensors, type Tensor, tensor } from "../../tensor/index.js";
import { causalLm } from "../causal-lm.js";
import { loadWeights, readJson } from "../checkpoint.js";
import { loadFolder } from "../load.js";
import { logitsOf } from "../probe.js";
import type { Tokenizer } from "../tokenizer/index.js";
import type { CausalLm } from "../types.js";
import { createDecoder } from "./decoder.js";
import { createGenerator, generate, stream } from "./index.js";

const FIXTURES = new URL("../../../fixtures/models/", import.meta.url).pathname;
const names = readdirSync(FIXTURES).filter((name) => existsSync(`${FIXTURES}${name}/config.json`));
const numbers = (t: Tensor) => Array.from(t.data as ArrayLike<bigint>, Number);
const vector = (data: Float32Array) => tensor("float32", [data.length], data);

const failure = async (promise: Promise<unknown>): Promise<TunesmithError> => {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(TunesmithError);
  return error as TunesmithError;
};

describe.each(names)("%s", (name) => {
  test("greedy decoding equals transformers'", async () => {
    const model = await loadFolder(`${FIXTURES}${name}`);
    const expected = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
    const prompt = numbers(await expected.read("generate.prompt"));
    const output = numbers(await expected.read("generate.output"));
    const generator = await createGenerator(model);
    const single = await generator.generate(prompt, { maxTokens: output.length });
    expect(single).toEqual({ text: "", ids: output, stopReason: "length" });
    // Rows of different lengths do not disturb each other.
    const rows = await generator.generateBatch([[3], prompt, prompt.slice(0, 2)], {
      maxTokens: output.length,
    });
    expect(rows[1]?.ids).toEqual(output);
    expect(rows[0]?.ids).toEqual((await generator.generate([3], { maxTokens: output.length })).ids);
    await generator.close();
  });

  test("cached logits equal those of the whole text at once", async () => {
    const model = await loadFolder(`${FIXTURES}${name}`);
    const expected = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
    const ids = numbers(await expected.read("input_ids")).slice(0, 12);
    const decoder = await createDecoder(model);
    const sequence = decoder.start([ids.slice(0, 5)]);
    const seen = [await sequence.read()];
    for (const id of ids.slice(5)) seen.push(await sequence.step([id]));
    const whole = (await logitsOf(model, ids)).data as Float32Array;
    const { vocabSize } = model.sizes;
    for (const [at, [logits]] of seen.entries()) {
      const row = whole.subarray((4 + at) * vocabSize, (5 + at) * vocabSize);
      expect(maxAbsDiff(vector(logits as Float32Array), vector(row)), `token ${4 + at}`).toBeLessThan(1e-5);
    }
    await decoder.close();
  });
});

const llama = () => loadFolder(`${FIXTURES}llama`);

/** Token n is the letter n of the alphabet; 0 ends a text. */
function letters(vocabSize: number): Tokenizer {
  const letter = (id: number) => String.fromCharCode(97 + (id % 26));
  const decode = (ids: Iterable<number>) => Array.from(ids, letter).join("");
  return {
    source: "tokenizer.json",
    vocabSize,
    bosId: 1,
    eosId: undefined,
    padId: undefined,
    unkId: undefined,
    specialIds: new Set(),
    hash: "",
    chatTemplate: undefined,
    encode: (text) => Int32Array.from(text, (character) => character.charCodeAt(0) - 97),
    encodePair: () => ({ ids: new Int32Array(), typeIds: new Int32Array() }),
    decode,
    decodeStream: () => ({ push: (id) => decode([id]), end: () => "" }),
    toJson: () => ({}),
    tokenToId: (token) => token.charCodeAt(0) - 97,
    idToToken: letter,
  };
}

async function lettered(): Promise<CausalLm> {
  const model = await llama();
  return { ...model, tokenizer: letters(model.sizes.vocabSize) };
}

test("a cache that grows many times stays right", async () => {
  const model = await llama();
  const generator = await createGenerator(model);
  const { ids } = await generator.generate([5, 9], { maxTokens: 60, repetitionPenalty: 1.3 });
  const { data, shape } = await logitsOf(model, [5, 9, ...ids.slice(0, -1)]);
  expect(shape[0]).toBe(61);
  const again = await generator.generate([5, 9, ...ids.slice(0, -1)], { maxTokens: 1 });
  const row = (data as Float32Array).subarray(-model.sizes.vocabSize);
  expect(again.ids[0]).toBe(row.indexOf(Math.max(...row)));
  await generator.close();
});

test("text streams in pieces that add up, and stop strings end it without showing", async () => {
  const model = await lettered();
  const whole = await generate(model, "abc", { maxTokens: 20 });
  expect(whole.text.length).toBe(20);
  const pieces: string[] = [];
  for await (const piece of stream(model, "abc", { maxTokens: 20 })) pieces.push(piece);
  expect(pieces.length).toBe(20);
  expect(pieces.join("")).toBe(whole.text);
  // A stop string of three tokens' letters, and one that begins alike but never comes.
  const stop = [whole.text.slice(4, 7), `${whole.text.slice(1, 3)}!`];
  const end = whole.text.indexOf(String(stop[0]));
  const stopped = await generate(model, "abc", { maxTokens: 20, stop });
  expect(stopped.text).toBe(whole.text.slice(0, end));
  expect(stopped.stopReason).toBe("stop");
  expect(stopped.ids.length).toBe(end + 3);
  const shown: string[] = [];
  for await (const piece of stream(model, "abc", { maxTokens: 20, stop })) shown.push(piece);
  expect(shown.join("")).toBe(stopped.text);
});

test("text ends at end tokens and at the longest position", async () => {
  const model = await llama();
  const { ids } = await generate(model, [5, 9], { maxTokens: 8 });
  const ended = await generate(model, [5, 9], { maxTokens: 8, stopIds: [ids[3] as number] });
  const first = ids.indexOf(ids[3] as number);
  expect(ended).toEqual({ text: "", ids: ids.slice(0, first), stopReason: "end" });
  const limit = model.sizes.maxPositions;
  const long = await generate(model, new Array(limit - 2).fill(4), { maxTokens: 50 });
  expect(long.stopReason).toBe("context");
  expect(long.ids.length).toBe(3);
});

test("sampling is reproducible by seed and differs between seeds and rows", async () => {
  const generator = await createGenerator(await llama());
  const run = async (seed: number) =>
    (await generator.generate([5], { maxTokens: 12, temperature: 1, seed })).ids;
  expect(await run(1)).toEqual(await run(1));
  expect(await run(1)).not.toEqual(await run(2));
  const [a, b] = await generator.generateBatch([[5], [5]], { maxTokens: 12, temperature: 1, seed: 1 });
  expect(a?.ids).toEqual(await run(1));
  expect(b?.ids).not.toEqual(a?.ids);
  await generator.close();
});

test("cancelling gives back what was generated", async () => {
  const controller = new AbortController();
  const onToken = ({ id }: { id: number }) => {
    seen.push(id);
    if (seen.length === 3) controller.abort();
  };
  const seen: number[] = [];
  const error = await failure(
    generate(await llama(), [5], { maxTokens: 50, onToken, signal: controller.signal }),
  );
  expect(error.code).toBe("cancelled");
  expect((error.details.partial as { ids: number[] }[])[0]?.ids).toEqual(seen);
});

test("bad options, bad prompts and a model that gives NaN are typed errors", async () => {
  const model = await llama();
  const code = async (prompt: string | number[], options = {}) =>
    (await failure(generate(model, prompt, options))).code;
  expect(await code([5], { topP: 0 })).toBe("config-invalid");
  expect(await code([5], { maxTokens: 0 })).toBe("config-invalid");
  expect(await code([], {})).toBe("data-invalid");
  expect(await code([model.sizes.vocabSize], {})).toBe("data-invalid");
  expect(await code(new Array(model.sizes.maxPositions + 1).fill(1), {})).toBe("data-invalid");
  expect(await code("text", {})).toBe("tokenizer-unsupported");
  expect(await code([5], { stop: ["x"] })).toBe("tokenizer-unsupported");
  const weights = new Map(await loadWeights(`${FIXTURES}llama`));
  const size = model.sizes.hiddenSize;
  const broken = tensor("float32", [size], new Float32Array(size).fill(Number.NaN));
  weights.set("model.norm.weight", constant(broken, "model.norm.weight"));
  const sick = causalLm(await readJson(`${FIXTURES}llama/config.json`), weights);
  expect((await failure(generate(sick, [5]))).code).toBe("numerical-failure");
});
