import { existsSync, readFileSync } from "node:fs";
import { encode } from "fast-png";
import { expect, test } from "vitest";
import {
  type MediaRow,
  openMedia,
  type PreferenceRow,
  type Row,
  readSeries,
  type Series,
} from "../../data/index.js";
import { adapt, lora, unfreeze } from "../../methods/index.js";
import {
  initModel,
  initTensorModel,
  jsonFromVocabTxt,
  loadModel,
  sequenceHead,
  type TensorModel,
  type Tokenizer,
  tokenizerFromJson,
} from "../../models/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { adamw, type FitOptions, fit, type Objective, type TrainEvent, tensorObjective } from "../index.js";
import {
  ctc,
  exampleList,
  maskedIds,
  objectiveFor,
  preferenceExamples,
  reward,
  type TaskData,
  type TaskOptions,
  textReader,
} from "./index.js";
import { pairInputs, piecesOf, textInputs } from "./text-rows.js";

const ASSETS = process.env.TUNESMITH_ASSETS ?? "../shared/assets";
const real = test.skipIf(!existsSync(ASSETS));

const VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].concat(
  "good bad fine poor movie book was the very not a cat dog runs sleeps ##ing ##s walk in Berlin berlin ##er paris".split(
    " ",
  ),
);
const wordPiece = (): Promise<Tokenizer> => tokenizerFromJson(jsonFromVocabTxt(VOCAB.join("\n")));

const SIZES = {
  vocab_size: VOCAB.length,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 32,
};
const bert = async (task: TensorModel["task"], labels?: readonly string[]): Promise<TensorModel> =>
  initTensorModel(
    { model_type: "bert", ...SIZES, initializer_range: 0.1 },
    { task, tokenizer: await wordPiece(), ...(labels ? { labels } : {}) },
  );

const read = (path: string) =>
  JSON.parse(readFileSync(new URL(`../../../fixtures/${path}`, import.meta.url), "utf8"));

async function run(objective: Objective, options: Partial<FitOptions> = {}) {
  const losses: number[] = [];
  const result = await fit(objective, {
    steps: 20,
    optimizer: adamw({ lr: 5e-3 }),
    session: { threads: 1 },
    onEvent: (event: TrainEvent) => event.type === "step" && losses.push(event.loss),
    ...options,
  });
  const tail = losses.slice(-4);
  return {
    first: losses[0] as number,
    last: tail.reduce((a, b) => a + b, 0) / tail.length,
    scores: result.evaluation?.scores,
  };
}

/** Everything of a model is trained, and the loss falls. */
async function learns(
  model: TensorModel,
  data: TaskData,
  options: Partial<TaskOptions> = {},
  more: Partial<FitOptions> = {},
) {
  const found = await run(
    objectiveFor(await unfreeze(model), data, { batchSize: 4, length: 16, ...options }),
    more,
  );
  expect(found.last).toBeLessThan(0.8 * found.first);
  return found;
}

const LONGER = { steps: 60, optimizer: adamw({ lr: 2e-3 }) };

const reviews: Row[] = ["movie", "book", "cat"].flatMap((thing) =>
  ["good", "bad", "fine", "poor"].map(
    (word): Row => ({
      kind: "classification",
      text: `the ${thing} was very ${word}`,
      label: word === "good" || word === "fine" ? "pos" : "neg",
    }),
  ),
);

test("texts are classified", async () => {
  const data = { train: reviews, validation: reviews };
  const { scores } = await learns(await bert("sequence-classification", ["neg", "pos"]), data, {}, LONGER);
  expect(scores?.accuracy).toBe(1);
  expect(scores?.f1_macro).toBe(1);
});

test("pairs of texts, several classes at once, numbers", async () => {
  const pairs = reviews.map((row) => ({ ...row, pair: "a dog runs" }) as Row);
  await learns(await bert("sequence-classification", ["neg", "pos"]), { train: pairs }, {}, LONGER);
  const several = reviews.map(
    (row): Row =>
      ({ ...row, label: "text" in row && row.text.includes("cat") ? "cat, word" : "word" }) as Row,
  );
  const found = await learns(
    await bert("sequence-classification", ["cat", "word"]),
    { train: several, validation: several },
    { multiLabel: true },
    LONGER,
  );
  expect(found.scores?.accuracy).toBeGreaterThan(0.9);
  const rated = reviews.map(
    (row) => ({ ...row, label: "label" in row && row.label === "pos" ? 1.5 : -0.5 }) as Row,
  );
  const { scores } = await learns(
    await bert("regression", ["score"]),
    { train: rated, validation: rated },
    {},
    LONGER,
  );
  expect(scores?.pearson).toBeGreaterThan(0.9);
});

test("a class the model does not have, and rows of another kind, are refused", async () => {
  const model = await bert("sequence-classification", ["neg", "pos"]);
  const other: Row = { kind: "classification", text: "good", label: "neutral" };
  expect(() => objectiveFor(model, { train: [other] }, { batchSize: 1 })).toThrow(/no class 'neutral'/);
  const text: Row = { kind: "text", text: "good" };
  expect(() => objectiveFor(model, { train: [text] }, { batchSize: 1 })).toThrow(/text row/);
});

test("long texts and pairs are cut in front of their end tokens", async () => {
  const reader = textReader(await bert("sequence-classification", ["a", "b"]), 8);
  const words = (inputs: Record<string, Tensor>) =>
    Array.from((inputs.input_ids as Tensor).data as BigInt64Array, (id) => VOCAB[Number(id)]).join(" ");
  expect(words(textInputs(reader, "the cat was very very very very good"))).toBe(
    "[CLS] the cat was very very very [SEP]",
  );
  const pair = pairInputs(reader, "the cat was very good", "a dog runs");
  expect(words(pair)).toBe("[CLS] the cat was [SEP] a dog [SEP]");
  expect(Array.from((pair.token_type_ids as Tensor).data as BigInt64Array, Number)).toEqual([
    0, 0, 0, 0, 0, 1, 1, 1,
  ]);
});

test("tags are learnt at the first piece of each word", async () => {
  const tokenizer = await wordPiece();
  const pieces = piecesOf(tokenizer, ["Berliner", "walking", "cats"]);
  expect(pieces.map((word) => word.map((id) => VOCAB[id]))).toEqual([
    ["berlin", "##er"],
    ["walk", "##ing"],
    ["cat", "##s"],
  ]);
  const rows: Row[] = [
    { kind: "tags", tokens: ["the", "Berliner", "runs"], tags: ["O", "B-LOC", "O"] },
    { kind: "tags", tokens: ["a", "dog", "in", "paris"], tags: ["O", "O", "O", "B-LOC"] },
  ];
  const model = await bert("token-classification", ["O", "B-LOC"]);
  const { scores } = await learns(model, { train: rows, validation: rows });
  expect(scores?.f1).toBe(1);
});

test("hidden words are found; the choice differs from epoch to epoch, and is the same for the same seed", async () => {
  const tokenizer = await wordPiece();
  const ids = Int32Array.from({ length: 200 }, (_, at) => 5 + (at % 20));
  const draw = (epoch: number, spans = false) => maskedIds(tokenizer, ids, { spans, stream: [epoch, 0] });
  expect(draw(0)).toEqual(draw(0));
  expect(draw(1)).not.toEqual(draw(0));
  const { ids: seen, labels } = draw(0);
  const chosen = labels.flatMap((label, at) => (label === -100 ? [] : [at]));
  expect(chosen.length).toBe(30);
  expect(chosen.every((at) => labels[at] === ids[at])).toBe(true);
  const masked = chosen.filter((at) => seen[at] === VOCAB.indexOf("[MASK]")).length;
  expect(masked).toBeGreaterThan(18);
  expect(masked).toBeLessThan(30);
  // Spans come in runs.
  const runs = (list: readonly number[]) =>
    list.filter((label, at) => label !== -100 && list[at - 1] === -100).length;
  expect(runs(draw(0, true).labels)).toBeLessThan(runs(labels));
  const rows: Row[] = ["the cat sleeps", "the dog runs", "the cat runs"].map((text) => ({
    kind: "text",
    text,
  }));
  await learns(await bert("masked-lm"), { train: rows }, {}, { steps: 40 });
});

test("targets are learnt from sources", async () => {
  const { architectures: _, ...config } = read("text-models/t5/config.json");
  const model = initTensorModel(
    { ...config, vocab_size: VOCAB.length },
    { task: "seq2seq", tokenizer: await wordPiece() },
  );
  const rows: Row[] = [
    { kind: "completion", prompt: "good", completion: "bad" },
    { kind: "completion", prompt: "cat", completion: "dog runs" },
  ];
  await learns(model, { train: rows, validation: rows });
});

test("texts that belong together come closer, in parts of a batch just as in one", async () => {
  const rows: Row[] = [
    ["good", "fine"],
    ["bad", "poor"],
    ["cat", "dog"],
    ["paris", "berlin"],
  ].map(([anchor, positive]) => ({
    kind: "similarity",
    anchor: `${anchor}`,
    positive: `${positive}`,
    negatives: [],
  }));
  const options = { loss: "multiple-negatives", widths: [32, 16] } as const;
  const whole = await learns(await bert("embedding"), { train: rows }, options, { steps: 10 });
  const parts = await learns(
    await bert("embedding"),
    { train: rows },
    { ...options, forwardRows: 3 },
    { steps: 10 },
  );
  expect(parts.first).toBeCloseTo(whole.first, 4);
  expect(parts.last).toBeCloseTo(whole.last, 2);
  const scored = rows.map(
    (row, at): Row => ({
      kind: "classification",
      text: "anchor" in row ? row.anchor : "",
      pair: "positive" in row ? row.positive : "",
      label: at % 2,
    }),
  );
  await learns(await bert("embedding"), { train: scored });
  const triplets = rows.map((row) => ({ ...row, negatives: ["walk"] }) as Row);
  // Once all are far enough apart there is nothing left to learn.
  await learns(await bert("embedding"), { train: triplets }, { loss: "triplet" }, { steps: 6 });
  const model = await bert("embedding");
  expect(() => objectiveFor(model, { train: rows }, { batchSize: 2, loss: "cosent" })).toThrow(
    /does not fit/,
  );
});

const picture = (name: string, label: string, paint: (x: number, y: number) => number): MediaRow => ({
  kind: "image",
  label,
  file: {
    name,
    read: async () => {
      const data = new Uint8Array(16 * 16 * 3);
      for (let at = 0; at < 256; at++) data.fill(paint(at % 16, Math.floor(at / 16)), 3 * at, 3 * at + 3);
      return encode({ width: 16, height: 16, data, channels: 3, depth: 8 });
    },
  },
});

test("images are classified, mirrored and shifted while training", async () => {
  const rows = Array.from({ length: 8 }, (_, at) =>
    at % 2 === 0
      ? picture(`${at}.png`, "rows", (_, y) => (y % 4 < 2 ? 200 : 20 + at))
      : picture(`${at}.png`, "columns", (x) => (x % 4 < 2 ? 200 : 20 + at)),
  );
  const { architectures: _, ...config } = read("vision/vit/config.json");
  const model = initTensorModel(config, { task: "image-classification", labels: ["rows", "columns"] });
  const data = { train: rows, validation: rows };
  const { scores } = await learns(model, data, { flip: true, shift: 1 }, { steps: 40 });
  expect(scores?.accuracy).toBe(1);
});

/** A tone as a WAV file of 16-bit samples. */
const tone = (hertz: number, label: string): MediaRow => ({
  kind: "audio",
  label,
  file: {
    name: `${label}.wav`,
    read: async () => {
      const samples = Int16Array.from(
        { length: 3200 },
        (_, at) => 8000 * Math.sin((2 * Math.PI * hertz * at) / 16000),
      );
      const out = new DataView(new ArrayBuffer(44 + 2 * samples.length));
      const text = (at: number, word: string) =>
        [...word].forEach((c, i) => void out.setUint8(at + i, c.charCodeAt(0)));
      text(0, "RIFF");
      out.setUint32(4, 36 + 2 * samples.length, true);
      text(8, "WAVEfmt ");
      for (const [at, size, value] of [
        [16, 4, 16],
        [20, 2, 1],
        [22, 2, 1],
        [24, 4, 16000],
        [28, 4, 32000],
        [32, 2, 2],
        [34, 2, 16],
      ] as const) {
        if (size === 4) out.setUint32(at, value, true);
        else out.setUint16(at, value, true);
      }
      text(36, "data");
      out.setUint32(40, 2 * samples.length, true);
      for (const [at, value] of samples.entries()) out.setInt16(44 + 2 * at, value, true);
      return new Uint8Array(out.buffer);
    },
  },
});

test("sounds are classified by their spectrograms", async () => {
  const rows = [300, 320, 2000, 2100].map((hertz) => tone(hertz, hertz < 1000 ? "low" : "high"));
  const model = initTensorModel(read("text-models/whisper-classes/config.json"), {
    task: "audio-classification",
    labels: ["low", "high"],
  });
  await learns(model, { train: rows, validation: rows });
});

test("forecasts are learnt from a series, scaled by its training part", async () => {
  const steps = 200;
  const values = Float32Array.from(
    { length: steps * 2 },
    (_, at) => 50 + 10 * Math.sin(Math.floor(at / 2) / (3 + (at % 2))),
  );
  const series: Series = { channels: ["a", "b"], times: [], values: tensor("float32", [steps, 2], values) };
  const config = { ...read("vision/tinytimemixer/config.json"), num_input_channels: 2 };
  const model = initTensorModel(config, { task: "forecasting" });
  const { scores } = await learns(model, { series }, { batchSize: 16 }, { steps: 60 });
  expect(scores?.mse).toBeLessThan(0.5);
});

test("a reward model learns which answer is better", async () => {
  const tokenizer = await wordPiece();
  const config = { ...SIZES, model_type: "llama", initializer_range: 0.1 };
  const base = { ...initModel(config, { seed: 1 }), tokenizer };
  const judge = await adapt(
    sequenceHead(base, { labels: 1 }),
    lora({ rank: 4, targets: "all-linear", modulesToSave: ["score"] }),
  );
  const rows: PreferenceRow[] = ["movie", "book", "cat"].map((thing) => ({
    kind: "preference",
    prompt: `the ${thing} was`,
    chosen: "very good",
    rejected: "bad",
  }));
  const train = preferenceExamples(rows, judge, (row, side) =>
    tokenizer.encode(`${row.prompt} ${row[side]}`),
  );
  const objective = tensorObjective(judge, { train, validation: train, batchSize: 2, loss: reward() });
  const { first, last, scores } = await run(objective);
  expect(first).toBeCloseTo(Math.LN2, 1);
  expect(last).toBeLessThan(0.5 * first);
  expect(scores?.preferenceAccuracy).toBe(1);
});

test("labels are learnt from frames without an alignment", async () => {
  const base = initTensorModel(
    { model_type: "bert", ...SIZES, initializer_range: 0.1 },
    { task: "token-classification", labels: 4 },
  );
  const source = exampleList(
    Array.from({ length: 6 }, (_, at) => {
      const labels = at % 2 === 0 ? [1, 2] : [3, 1, 1];
      const ids = labels.flatMap((label) => [10, label + 4, label + 4]);
      return {
        inputs: { input_ids: tensor("int64", [ids.length], ids) },
        targets: {
          labels: tensor("int64", [labels.length], labels),
          frames: tensor("int64", [], [ids.length]),
        },
      };
    }),
  );
  const objective = tensorObjective(await unfreeze(base), { train: source, batchSize: 4, loss: ctc() });
  const { first, last } = await run(objective, { steps: 30 });
  expect(last).toBeLessThan(0.5 * first);
});

/** Whole words of texts as a vocabulary. */
const wordsOf = (texts: readonly string[]) => {
  const counts = new Map<string, number>();
  for (const word of texts.flatMap((text) => text.split(" "))) counts.set(word, (counts.get(word) ?? 0) + 1);
  const frequent = [...counts]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 1500)
    .map(([word]) => word);
  return [...VOCAB.slice(0, 5), ...frequent];
};

real(
  "film reviews (SST-2) with a small BERT",
  async () => {
    const lines = readFileSync(`${ASSETS}/data/sst2/train.txt`, "utf8").split("\n").slice(0, 600);
    const rows = lines.flatMap((line): Row[] =>
      line === "" ? [] : [{ kind: "classification", label: line.slice(0, 1), text: line.slice(2) }],
    );
    const words = wordsOf(rows.map((row) => ("text" in row ? row.text : "")));
    const tokenizer = await tokenizerFromJson(jsonFromVocabTxt(words.join("\n")));
    const sizes = { ...SIZES, vocab_size: words.length, max_position_embeddings: 64 };
    const model = initTensorModel(
      { model_type: "bert", ...sizes },
      { task: "sequence-classification", labels: ["0", "1"], tokenizer },
    );
    const objective = objectiveFor(
      await unfreeze(model),
      { train: rows.slice(0, 128) },
      { batchSize: 32, length: 32, lengths: [32] },
    );
    const { first, last } = await run(objective, { steps: 24 });
    expect(last).toBeLessThan(first - 0.1);
  },
  60_000,
);

real(
  "photographs (CIFAR-10) with a new head on ResNet-20",
  async () => {
    const { rows, labels, close } = await openMedia(`${ASSETS}/data/cifar10/train5k.tar`);
    const model = await loadModel(`${ASSETS}/models/resnet20-cifar10/resnet20.th`, {
      task: "image-classification",
      labels: [...labels],
    });
    const objective = objectiveFor(
      await unfreeze(model, { select: /linear|fc/ }),
      { train: rows.filter((_, at) => at % 40 === 0) },
      {
        batchSize: 32,
        flip: true,
        processor: { size: 32, image_mean: [0.485, 0.456, 0.406], image_std: [0.229, 0.224, 0.225] },
      },
    );
    const { first, last } = await run(objective, { steps: 10, optimizer: adamw({ lr: 2e-2 }) });
    await close();
    expect(last).toBeLessThan(0.7 * first);
  },
  60_000,
);

real(
  "electricity transformers (ETTh1) with TinyTimeMixer",
  async () => {
    const model = await loadModel(`${ASSETS}/models/ttm`, { task: "forecasting" });
    const series = await readSeries(`${ASSETS}/data/ett/ETTh1.csv`);
    const borders = { train: 8640, validation: 8740, test: 14400 };
    const objective = objectiveFor(
      await adapt(model, lora({ rank: 4 })),
      { series },
      { batchSize: 8, borders, stride: 50 },
    );
    const { first, last, scores } = await run(objective, { steps: 6, optimizer: adamw({ lr: 2e-3 }) });
    expect(last).toBeLessThan(first * 1.05);
    expect(scores?.mse).toBeLessThan(1);
  },
  120_000,
);

real(
  "spoken digits",
  async () => {
    const { rows, labels, close } = await openMedia(`${ASSETS}/data/spoken-digits/recordings.tar`, {
      labelFrom: "name",
    });
    const config = {
      ...read("text-models/whisper-classes/config.json"),
      num_mel_bins: 20,
      max_source_positions: 25,
    };
    const model = initTensorModel(
      { ...config, initializer_range: 0.1 },
      { task: "audio-classification", labels: [...labels] },
    );
    const few = rows.filter(({ label }) => label === "0" || label === "6").slice(0, 24);
    const objective = objectiveFor(await unfreeze(model), { train: few }, { batchSize: 12 });
    const { first, last } = await run(objective, { steps: 30 });
    await close();
    expect(last).toBeLessThan(0.7 * first);
  },
  60_000,
);
