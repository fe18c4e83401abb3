import { cpSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AutoModel,
  AutoModelForCausalLM,
  AutoModelForQuestionAnswering,
  AutoModelForSeq2SeqLM,
  AutoModelForSpeechSeq2Seq,
  AutoTokenizer,
  env,
  Tensor as JsTensor,
  pipeline,
  RawImage,
} from "@huggingface/transformers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { processImages } from "../../src/data/index.js";
import { adapt, lora, merge } from "../../src/methods/index.js";
import { randomise } from "../../src/methods/testing/fixtures.js";
import {
  type CausalLm,
  createSeq2seqGenerator,
  type ExportOptions,
  exportOnnx,
  generate,
  loadModel,
  type Model,
  probe,
  runModel,
  type TensorModel,
} from "../../src/models/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";

const FIXTURES = "fixtures";
const STORIES = `${process.env.TUNESMITH_ASSETS ?? "../shared/assets"}/models/stories260K`;
const SINGLE = { dtype: "fp32" } as const;
/** Of the wordpiece tokenizer that the text fixtures get. */
const WORDS = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "the",
  "cat",
  "sat",
  "on",
  "mat",
  "##s",
  "a",
  "dog",
];
const TEXTS = ["the cats sat on the mat", "a dog"];

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "tunesmith-transformers-js-"));
  env.localModelPath = folder;
  env.allowRemoteModels = false;
});
afterAll(() => rmSync(folder, { recursive: true }));

const forJs = (model: Model, name: string, options: ExportOptions = {}) =>
  exportOnnx(model, join(folder, name), { layout: "transformers.js", ...options });

const long = (rows: readonly (readonly number[])[]) =>
  new JsTensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]?.length ?? 0]);
const asJs = ({ dtype, data, shape }: Tensor) =>
  new JsTensor(dtype as "float32", data as Float32Array, [...shape]);
const numbers = ({ data }: { data: unknown }) => Array.from(data as Iterable<number | bigint>, Number);

/** Largest difference, in shares of the largest number of `b`. */
function apart(a: { data: unknown }, b: { data: unknown }): number {
  const [left, right] = [numbers(a), numbers(b)];
  expect(left.length).toBe(right.length);
  const scale = Math.max(...right.map(Math.abs), 1e-6);
  return Math.max(...right.map((x, at) => Math.abs(x - Number(left[at])))) / scale;
}

const text = (name: string, task: "auto" | "seq2seq" = "auto") =>
  loadModel(`${FIXTURES}/text-models/${name}`, { task }) as Promise<TensorModel>;

/** A text fixture with a tokenizer of its own. */
async function withWords(name: string): Promise<TensorModel> {
  const source = join(folder, `source-${name}`);
  cpSync(`${FIXTURES}/text-models/${name}`, source, { recursive: true });
  writeFileSync(join(source, "vocab.txt"), WORDS.join("\n"));
  return (await loadModel(source, { task: "auto" })) as TensorModel;
}

const tokens = ({ tokenizer }: Model, words: string) => {
  const ids = [...(tokenizer?.encode(words) ?? [])];
  return tensor("int64", [1, ids.length], ids);
};

/** Ids that transformers.js generates greedily after `prompt`, however they end. */
async function greedy(name: string, prompt: readonly number[], count: number): Promise<number[]> {
  const model = await AutoModelForCausalLM.from_pretrained(name, SINGLE);
  const made = (await model.generate({
    inputs: long([prompt]),
    attention_mask: long([prompt.map(() => 1)]),
    max_new_tokens: count,
    do_sample: false,
    eos_token_id: -1,
  } as never)) as JsTensor;
  await model.dispose();
  return numbers(made);
}

const PROMPT = [5, 9, 11];
const ours = async (model: CausalLm, count: number) => {
  const { ids } = await generate(model, PROMPT, { maxTokens: count, temperature: 0 });
  return [...PROMPT, ...ids];
};

test("the shipped model writes the same text, from a folder that lacks nothing", async () => {
  const model = await loadModel("assets/default-model");
  const { notes } = await forJs(model, "shipped");
  expect(notes).toEqual([]);
  const [js, tokenizer] = await Promise.all([
    AutoModelForCausalLM.from_pretrained("shipped"),
    AutoTokenizer.from_pretrained("shipped"),
  ]);
  const prompt = "export function ";
  const made = await js.generate({ ...tokenizer(prompt), max_new_tokens: 40, do_sample: false });
  const [written] = tokenizer.batch_decode(made as JsTensor, { skip_special_tokens: true });
  const { text: expected } = await generate(model, prompt, { maxTokens: 40, temperature: 0 });
  expect(written).toBe(prompt + expected);
  await js.dispose();
});

test.skipIf(!existsSync(STORIES))(
  "stories260K, whose tokenizer is llama2.c's, tells the same story",
  async () => {
    const model = await loadModel(STORIES);
    const { notes } = await forJs(model, "stories");
    expect(notes).toEqual([]);
    const write = await pipeline("text-generation", "stories", SINGLE);
    const prompt = "Once upon a time, there was a little girl";
    const [told] = (await write(prompt, { max_new_tokens: 60, do_sample: false })) as {
      generated_text: string;
    }[];
    const { text: expected } = await generate(model, prompt, { maxTokens: 60, temperature: 0 });
    expect(told?.generated_text).toBe(prompt + expected);
    await write.dispose();
  },
);

test.each(["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm"])(
  "%s: the same tokens",
  async (name) => {
    const model = await loadModel(`${FIXTURES}/models/${name}`);
    await forJs(model, name);
    expect(await greedy(name, PROMPT, 16)).toEqual(await ours(model, 16));
  },
);

test("an adapter merged into an imported ONNX file, weights beside the file", async () => {
  const file = await exportOnnx(await loadModel(`${FIXTURES}/models/llama`), join(folder, "file"), {
    cache: true,
  });
  const adapted = randomise(
    await adapt(await loadModel(file.path), lora({ rank: 2, targets: "all-linear" })),
  );
  const merged = await merge(adapted);
  const { files } = await forJs(merged, "imported", { external: "always" });
  expect(files.some((path) => path.endsWith("model.onnx_data"))).toBe(true);
  expect(await greedy("imported", PROMPT, 12)).toEqual(await ours(merged, 12));
});

test.each(["t5", "t5-gated", "mt5"])("%s: encoder and decoder write the same tokens", async (name) => {
  const model = await text(name, "seq2seq");
  await forJs(model, name);
  const js = await AutoModelForSeq2SeqLM.from_pretrained(name, SINGLE);
  const rows = [PROMPT, [7, 3, 2]];
  const made = (await js.generate({
    inputs: long(rows),
    attention_mask: long([
      [1, 1, 1],
      [1, 1, 0],
    ]),
    max_new_tokens: 8,
    do_sample: false,
    eos_token_id: -1,
  } as never)) as JsTensor;
  const generator = await createSeq2seqGenerator(model);
  const expected = await generator.generateBatch([PROMPT, [7, 3]], { maxTokens: 8, temperature: 0 });
  const start = model.decoder?.startId as number;
  expect(numbers(made)).toEqual(expected.flatMap(({ ids }) => [start, ...ids]));
  await generator.close();
  await js.dispose();
});

test("an adapter merged into encoder and decoder", async () => {
  const adapted = randomise(
    await adapt(await text("t5", "seq2seq"), lora({ rank: 2, targets: "all-linear" })),
  );
  const merged = await merge(adapted);
  await forJs(merged, "t5-merged");
  const js = await AutoModelForSeq2SeqLM.from_pretrained("t5-merged", SINGLE);
  const options = { max_new_tokens: 8, do_sample: false, eos_token_id: -1 };
  const inputs = { inputs: long([PROMPT]), attention_mask: long([[1, 1, 1]]) };
  const made = (await js.generate({ ...inputs, ...options } as never)) as JsTensor;
  const generator = await createSeq2seqGenerator(adapted);
  const { ids } = await generator.generate(PROMPT, { maxTokens: 8, temperature: 0 });
  expect(numbers(made)).toEqual([merged.decoder?.startId, ...ids]);
  await generator.close();
  await js.dispose();
});

test("whisper writes the same tokens", async () => {
  const model = await text("whisper", "seq2seq");
  const { notes } = await forJs(model, "whisper");
  expect(notes).toEqual([]);
  const js = await AutoModelForSpeechSeq2Seq.from_pretrained("whisper", SINGLE);
  const { feeds } = probe(model);
  const features = feeds.input_features as Tensor;
  const made = (await js.generate({
    inputs: asJs(features),
    max_new_tokens: 8,
    eos_token_id: -1,
  } as never)) as JsTensor;
  const generator = await createSeq2seqGenerator(model);
  const { ids } = await generator.generate({ input_features: features }, { maxTokens: 8, temperature: 0 });
  expect(numbers(made)).toEqual([model.decoder?.startId, ...ids]);
  await generator.close();
  await js.dispose();
});

test("a classifier of texts gives the same scores, and its labels", async () => {
  const model = await withWords("bert-classes");
  const { notes } = await forJs(model, "classes");
  expect(notes).toEqual([]);
  const classify = await pipeline("text-classification", "classes");
  const found = (await classify(TEXTS[0] as string, { top_k: 10 })) as { label: string; score: number }[];
  const { logits } = await runModel(model, { input_ids: tokens(model, TEXTS[0] as string) });
  const exps = numbers(logits as Tensor).map(Math.exp);
  const total = exps.reduce((a, b) => a + b, 0);
  const scores = new Map(found.map(({ label, score }) => [label, score]));
  expect(scores.size).toBe(model.labels?.length);
  model.labels?.forEach((label, at) => {
    expect(scores.get(label)).toBeCloseTo((exps[at] as number) / total, 5);
  });
});

test("vectors of texts are the same", async () => {
  const model = await withWords("bert-vectors");
  await forJs(model, "vectors");
  const extract = await pipeline("feature-extraction", "vectors");
  const vectors = await extract(TEXTS, { pooling: "mean", normalize: false });
  const expected: number[] = [];
  for (const words of TEXTS) {
    const { sentence_embedding: vector } = await runModel(model, { input_ids: tokens(model, words) });
    expected.push(...numbers(vector as Tensor));
  }
  expect(apart(vectors, { data: expected })).toBeLessThan(1e-5);
});

test("answers are looked for in the same places", async () => {
  const model = await text("bert-spans");
  await forJs(model, "spans");
  const js = await AutoModelForQuestionAnswering.from_pretrained("spans");
  const { feeds } = probe(model);
  const inputs = Object.fromEntries(Object.entries(feeds).map(([name, value]) => [name, asJs(value)]));
  const got = (await js(inputs)) as Record<string, JsTensor>;
  const expected = await runModel(model, feeds);
  for (const name of ["start_logits", "end_logits"])
    expect(apart(got[name] as JsTensor, expected[name] as Tensor), name).toBeLessThan(1e-5);
});

test.each(["vit", "deit", "resnet", "mobilenet"])("%s: an image has the same scores", async (name) => {
  const model = (await loadModel(`${FIXTURES}/vision/${name}`, { task: "auto" })) as TensorModel;
  const { feeds } = probe(model);
  const [, channels, height, width] = (feeds.pixel_values as Tensor).shape as [
    number,
    number,
    number,
    number,
  ];
  const preprocessor = {
    image_processor_type: "ViTImageProcessor",
    do_resize: true,
    size: { height, width },
    resample: 2,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.5, 0.4, 0.3],
    image_std: [0.5, 0.6, 0.7],
  };
  await forJs(model, name, { preprocessor });
  const data = Uint8Array.from({ length: width * height * channels }, (_, at) => (at * 37 + 11) % 256);
  const classify = await pipeline("image-classification", name);
  const found = await classify(new RawImage(data, width, height, channels as 3), { top_k: 100 });
  const pixels = processImages([{ data, width, height, channels: channels as 3 }], preprocessor);
  const { logits } = await runModel(model, { pixel_values: pixels });
  const exps = numbers(logits as Tensor).map(Math.exp);
  const total = exps.reduce((a, b) => a + b, 0);
  const expected = exps.map((x) => x / total).sort((a, b) => b - a);
  const scores = (found as { score: number }[]).map(({ score }) => score);
  expect(apart({ data: scores }, { data: expected })).toBeLessThan(1e-5);
});

test("CLIP gives the same similarities", async () => {
  const model = (await loadModel(`${FIXTURES}/vision/clip`, { task: "auto" })) as TensorModel;
  const { notes } = await forJs(model, "clip");
  expect(notes).toEqual([expect.stringContaining("preprocessor_config.json")]);
  const js = await AutoModel.from_pretrained("clip");
  const { feeds } = probe(model);
  const inputs = Object.fromEntries(Object.entries(feeds).map(([key, value]) => [key, asJs(value)]));
  const got = (await js(inputs)) as Record<string, JsTensor>;
  const expected = await runModel(model, feeds);
  expect(Object.keys(expected)).toContain("logits_per_image");
  for (const [key, value] of Object.entries(expected))
    expect(apart(got[key] as JsTensor, value), key).toBeLessThan(1e-4);
});

test("smaller files are found by their dtype and are near the first", async () => {
  const model = await loadModel("assets/default-model");
  const variants = ["fp16", "q8", "q4", "q4f16", "bnb4"] as const;
  await forJs(model, "smaller", { variants });
  const logits = async (dtype: (typeof variants)[number] | "fp32") => {
    const js = await AutoModelForCausalLM.from_pretrained("smaller", { dtype });
    const result = (await js({ input_ids: long([PROMPT]), attention_mask: long([[1, 1, 1]]) })) as {
      logits: JsTensor;
    };
    await js.dispose();
    return result.logits;
  };
  const whole = await logits("fp32");
  const gaps = await Promise.all(
    variants.map(async (dtype) => [dtype, apart(await logits(dtype), whole)] as const),
  );
  const most = { fp16: 5e-3, q8: 0.06, q4: 0.15, q4f16: 0.15, bnb4: 0.15 };
  const bytes = (suffix: string) => statSync(join(folder, "smaller", "onnx", `model${suffix}.onnx`)).size;
  const sizes = { fp16: "_fp16", q8: "_quantized", q4: "_q4", q4f16: "_q4f16", bnb4: "_bnb4" };
  for (const [dtype, gap] of gaps) {
    expect(gap, dtype).toBeLessThan(most[dtype]);
    expect(gap, dtype).toBeGreaterThan(0);
    expect(bytes(sizes[dtype]) / bytes(""), dtype).toBeLessThan(0.55);
  }
});
