import { expect, test } from "vitest";
import { openSafetensors, type Tensor, tensor } from "../../tensor/index.js";
import { loadModel } from "../load.js";
import { createSeq2seqGenerator, generateSeq2seq } from "./seq2seq.js";

const FIXTURES = new URL("../../../fixtures/text-models/", import.meta.url).pathname;
const load = (name: string) => loadModel(`${FIXTURES}${name}`, { task: "seq2seq" });

async function expectedOf(name: string) {
  const file = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
  const given: Record<string, Tensor> = {};
  for (const key of file.entries.keys()) {
    if (key.startsWith("input.") && !key.endsWith("decoder_input_ids"))
      given[key.slice(6)] = await file.read(key);
  }
  const output = Array.from((await file.read("generate.output")).data as BigInt64Array, Number);
  return { given, rows: [output.slice(0, 12), output.slice(12)] };
}

const settings = { maxTokens: 12, stopIds: [] };

test.each(["t5", "t5-gated", "mt5", "whisper"])("%s: greedy decoding equals transformers'", async (name) => {
  const { given, rows } = await expectedOf(name);
  const generator = await createSeq2seqGenerator(await load(name));
  const generations = await generator.generateBatch(given, settings);
  expect(generations.map(({ ids }) => ids)).toEqual(rows);
  expect(generations[0]?.stopReason).toBe("length");
  await generator.close();
});

test("ids of several lengths, sampling by seed, end and suppressed tokens, a prefix", async () => {
  const { given, rows } = await expectedOf("t5");
  const model = await load("t5");
  const generator = await createSeq2seqGenerator(model);
  const ids = Array.from(given.input_ids?.data as BigInt64Array, Number);
  const sources = [ids.slice(0, 6), ids.slice(9)];
  const together = await generator.generateBatch(sources, settings);
  expect(together.map((each) => each.ids)).toEqual(rows);
  expect((await generator.generate(sources[0] as number[], settings)).ids).toEqual(rows[0]);
  const first = rows[1] as number[];
  const prefixed = await generator.generate(sources[1] as number[], {
    ...settings,
    prefix: first.slice(0, 3),
  });
  expect(prefixed.ids.slice(0, 9)).toEqual(first.slice(3));
  const stopped = await generator.generate(sources[1] as number[], {
    maxTokens: 12,
    stopIds: [first[2] as number],
  });
  expect(stopped).toMatchObject({
    stopReason: "end",
    ids: first.slice(0, first.indexOf(first[2] as number)),
  });
  const other = await generator.generate(sources[1] as number[], {
    ...settings,
    suppress: [first[0] as number],
  });
  expect(other.ids).not.toContain(first[0]);
  const draw = (seed: number) =>
    generator
      .generate(sources[0] as number[], { ...settings, temperature: 3, seed })
      .then((each) => each.ids);
  expect(await draw(1)).toEqual(await draw(1));
  expect(await draw(1)).not.toEqual(await draw(2));
  await generator.close();
});

test("a whisper row ends at its longest position", async () => {
  const { given } = await expectedOf("whisper");
  const features = given.input_features as Tensor;
  const half = (features.data as Float32Array).slice(0, features.data.length / 2);
  const one = { input_features: tensor("float32", [1, ...features.shape.slice(1)], half) };
  const { ids, stopReason } = await generateSeq2seq(await load("whisper"), one, {
    maxTokens: 99,
    stopIds: [],
  });
  expect(stopReason).toBe("context");
  expect(ids.length).toBe(32);
});

test("what cannot be generated from is a typed error", async () => {
  const model = await load("t5");
  await expect(generateSeq2seq(model, [])).rejects.toMatchObject({ code: "data-invalid" });
  await expect(generateSeq2seq(model, [3, 50])).rejects.toMatchObject({ code: "data-invalid" });
  await expect(generateSeq2seq(model, "text")).rejects.toMatchObject({ code: "tokenizer-unsupported" });
  await expect(generateSeq2seq(model, [3], { temperature: -1 })).rejects.toMatchObject({
    code: "config-invalid",
  });
  const classifier = await loadModel(`${FIXTURES}bert-classes`, { task: "sequence-classification" });
  await expect(generateSeq2seq(classifier, [3])).rejects.toMatchObject({ code: "task-mismatch" });
});
