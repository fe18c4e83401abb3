import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../../data/index.js";
import { input, makeGraph } from "../../graph/index.js";
import { createDecoder } from "../../models/generate/decoder.js";
import {
  type CausalLm,
  defaultModelPath,
  exportGraph,
  generate,
  inputsOf,
  loadModel,
  type Parameter,
  parameterFeeds,
  staticInputs,
} from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { createStepper, nextToken, nextTokenBatches, type StepperOptions } from "../../training/index.js";
import { type AdaptedLm, adapt, alora, loadAdapter, lora, merge, saveAdapter, setScale } from "../index.js";
import { largestGap, randomise, smallModel } from "../testing/fixtures.js";

const base = smallModel();
const CALL = [9, 4];
const WIDTH = 64;
const settings = { rank: 3, alpha: 6, targets: ["q_proj", "v_proj", "down_proj"] };
const adapted = async (invocation: readonly number[] = CALL, on: CausalLm = base): Promise<AdaptedLm> =>
  randomise(await adapt(on, alora({ ...settings, invocation: [...invocation] })), 5, 0.3);

interface RowOptions {
  /** Default: one text. */
  readonly segments?: readonly number[];
  /** Tokens of the prompt; default: all. */
  readonly begun?: number;
}

/** Logits of one row, a vector per token. */
async function rowOf(model: CausalLm, ids: readonly number[], options: RowOptions = {}) {
  const { segments = ids.map(() => 1), begun = ids.length } = options;
  const shape = [1, ids.length];
  const prompt = input("prompt", "int64", shape);
  const { logits } = model.build({ ...staticInputs(1, ids.length), prompt });
  const graph = makeGraph("row", inputsOf([logits]), [["logits", logits]]);
  const given = {
    ids: tensor("int64", shape, ids),
    prompt: tensor(
      "int64",
      shape,
      ids.map((id, at) => (at < begun ? id : -1)),
    ),
    positions: tensor(
      "int64",
      shape,
      ids.map((_, at) => at - segments.indexOf(segments[at] as number)),
    ),
    segments: tensor("int32", shape, segments),
  };
  const read = Object.entries(given).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const feeds = { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) };
  const data = ((await evaluate(graph, feeds)).logits as Tensor).data as Float32Array;
  return ids.map((_, at) => data.subarray(at * WIDTH, (at + 1) * WIDTH));
}

/** Largest difference token by token. */
const gaps = (a: readonly Float32Array[], b: readonly Float32Array[]) =>
  a.map((row, at) => largestGap(row, b[at] as Float32Array));

test("the last invocation counts: the base before it, bit for bit, and LoRA from its first token on", async () => {
  const ids = [5, 9, 4, 30, 9, 61, 9, 4, 12, 4];
  const model = await adapted();
  const found = gaps(await rowOf(model, ids), await rowOf(base, ids));
  expect(found.slice(0, 6)).toEqual([0, 0, 0, 0, 0, 0]);
  expect(Math.min(...found.slice(6))).toBeGreaterThan(1e-3);
  // A text that begins with it is LoRA's throughout.
  const plain = await adapt(base, lora(settings));
  for (const [name, { tensor: own }] of model.parameters)
    ((plain.parameters.get(name) as Parameter).tensor.data as Float32Array).set(own.data as Float32Array);
  const called = [...CALL, 7, 55, 3];
  expect(Math.max(...gaps(await rowOf(model, called), await rowOf(plain, called)))).toBeLessThan(1e-6);
  setScale(model, "default", 0);
  expect(Math.max(...gaps(await rowOf(model, ids), await rowOf(base, ids)))).toBe(0);
});

test("without the whole invocation it is the base, at the end of a row too", async () => {
  const model = await adapted([4, 9, 9]);
  for (const ids of [
    [4, 9, 30, 9, 9, 4],
    [7, 4, 9],
    [9, 9],
    [2, 4, 9, 8, 9],
  ])
    expect(Math.max(...gaps(await rowOf(model, ids), await rowOf(base, ids)))).toBe(0);
});

test("packed texts are told apart: each is as it is alone, and no invocation spans two", async () => {
  const model = await adapted();
  const texts = [
    [3, 9, 4, 20],
    [4, 9, 31],
    [4, 50, 9, 4, 11],
    [6, 60, 9],
  ];
  const segments = texts.flatMap((text, at) => text.map(() => at + 1));
  const packed = await rowOf(model, [...texts.flat(), 4, 9, 4], { segments: [...segments, 0, 0, 0] });
  const alone = (await Promise.all(texts.map((text) => rowOf(model, text)))).flat();
  expect(Math.max(...gaps(alone, packed))).toBeLessThan(1e-5);
  const plain = (await Promise.all(texts.map((text) => rowOf(base, text)))).flat();
  const moved = gaps(alone, plain).map((gap) => gap > 1e-3);
  expect(moved.map(Number).join("")).toBe("0111000001110000".slice(0, alone.length));
});

test("decoding with a cache, or without one, is the whole row read again; the prompt alone invokes", async () => {
  const model = await adapted();
  const prompts = [
    [5, 9, 4, 30],
    [9, 4, 9, 4, 17, 2, 9],
    [8, 9, 12, 3, 40, 41],
  ];
  // What is generated completes an invocation in the second text, and is one in all of them.
  const steps = [
    [11, 4, 6],
    [9, 9, 9],
    [4, 4, 4],
    [2, 3, 5],
  ];
  const withoutCache: CausalLm = { ...model, build: (inputs) => ({ ...model.build(inputs), present: [] }) };
  for (const decoding of [model, withoutCache]) {
    const decoder = await createDecoder(decoding);
    const sequence = decoder.start(prompts);
    for (let step = 0; step <= steps.length; step++) {
      const logits = await (step === 0 ? sequence.read() : sequence.step(steps[step - 1] as number[]));
      for (const [row, prompt] of prompts.entries()) {
        const ids = [...prompt, ...steps.slice(0, step).map((tokens) => tokens[row] as number)];
        const expected = (await rowOf(model, ids, { begun: prompt.length })).at(-1) as Float32Array;
        expect(largestGap(logits[row] as Float32Array, expected)).toBeLessThan(1e-5);
        const plain = (await rowOf(base, ids)).at(-1) as Float32Array;
        expect(largestGap(expected, plain) > 1e-4, `${row} ${step}`).toBe(row < 2);
      }
    }
    await decoder.close();
  }
  const text = await generate(model, prompts[0] as number[], { maxTokens: 6, stopIds: [] });
  const greedy = [...(prompts[0] as number[])];
  for (let step = 0; step < 6; step++) {
    const last = (await rowOf(model, greedy, { begun: 4 })).at(-1) as Float32Array;
    greedy.push(last.indexOf(Math.max(...last)));
  }
  expect(text.ids).toEqual(greedy.slice(4));
});

test("a padding's id does not invoke", async () => {
  const model = await adapted([0, 8]);
  const decoder = await createDecoder(model);
  const [, short] = await decoder
    .start([
      [3, 4, 5, 6],
      [8, 20],
    ])
    .read();
  await decoder.close();
  const plain = (await rowOf(base, [8, 20])).at(-1) as Float32Array;
  expect(largestGap(short as Float32Array, plain)).toBeLessThan(1e-5);
});

test("gradients come from invoked tokens alone, through recomputed blocks too", async () => {
  const model = await adapted();
  const rows = [
    [5, 9, 4, 30, 12, 13, 14, 3],
    [7, 6, 5, 4, 3, 2, 1, 9],
  ].map((ids) => ({ ids: Int32Array.from(ids), lossMask: new Uint8Array(8).fill(1, 1) }));
  const stepOf = async (train: readonly (typeof rows)[0][], how: Partial<StepperOptions> = {}) => {
    const packs = packExamples(train, { length: 8, strategy: "none" });
    const plan = { batchSize: 1, lengths: [8], padId: 0 };
    const [batch] = [...nextTokenBatches(packs, plan)];
    if (!batch) throw new Error("no batch");
    const stepper = createStepper(nextToken(model, plan), { session: { threads: 1 }, ...how });
    try {
      return (await stepper.run(batch, batch.count, [1])).gradients;
    } finally {
      await stepper.close();
    }
  };
  const called = await stepOf(rows.slice(0, 1));
  const again = await stepOf(rows.slice(0, 1), { recompute: true });
  const uncalled = await stepOf(rows.slice(1));
  expect(called.size).toBe(12);
  for (const [name, gradient] of called) {
    expect(
      gradient.some((value) => value !== 0),
      name,
    ).toBe(true);
    expect(largestGap(gradient, again.get(name) as Float32Array), name).toBeLessThan(1e-5);
    expect(
      uncalled.get(name)?.every((value) => value === 0),
      name,
    ).toBe(true);
  }
});

test("what it cannot do is refused by name", async () => {
  const model = await adapted();
  await expect(merge(model)).rejects.toMatchObject({
    code: "not-mergeable",
    message: expect.stringContaining("alora"),
  });
  const onHead = await adapt(base, alora({ invocation: CALL, targets: ["lm_head"] }));
  expect(() => onHead.build(staticInputs(1, 4))).toThrow(/lm_head/);
  expect(() => exportGraph(model, { cache: true })).toThrow(/after the invocation cannot be known/);
  expect(exportGraph(model).outputs.has("logits")).toBe(true);
  expect(() => alora({ invocation: [] })).toThrow(/invocation/);
  await expect(adapt(base, alora({ invocation: CALL, targets: ["embed_tokens"] }))).rejects.toMatchObject({
    code: "target-unsupported",
  });
});

test("an invocation given as a text becomes the tokens of the model's tokenizer, in the folder too", async () => {
  const shipped = await loadModel(await defaultModelPath());
  const text = "function";
  const ids = Array.from(shipped.tokenizer?.encode(text, { continuation: true }) ?? []);
  const model = await adapt(shipped, alora({ ...settings, invocation: text }));
  expect(ids.length).toBeGreaterThan(0);
  expect(model.adapters.get("default")?.adaptation.config).toMatchObject({ invocation: ids });
  const folder = join(mkdtempSync(join(tmpdir(), "tunesmith-alora-")), "adapter");
  await saveAdapter(randomise(model, 5, 0.3), folder);
  const written = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
  expect(written.alora_invocation_tokens).toEqual(ids);
  await expect(adapt(base, alora({ ...settings, invocation: text }))).rejects.toMatchObject({
    code: "config-invalid",
    message: expect.stringContaining("no tokenizer"),
  });
});

test("a folder keeps the invocation, and one without an effect is told apart from one that waits", async () => {
  const folder = join(mkdtempSync(join(tmpdir(), "tunesmith-alora-")), "adapter");
  const model = await adapted();
  const { sitesChanged } = await saveAdapter(model, folder);
  expect(sitesChanged).toBe(6);
  const loaded = await loadAdapter(base, folder);
  expect(loaded.adapters.get("default")?.adaptation.config).toMatchObject({ invocation: CALL });
  expect(loaded.receipt.logits.maxDifference).toBeGreaterThan(1e-3);
  const fresh = await adapt(base, alora({ ...settings, invocation: CALL }));
  await expect(saveAdapter(fresh, folder)).rejects.toMatchObject({ code: "adapter-no-effect" });
});
