import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { constant, type Value } from "../graph/index.js";
import { maxAbsDiff, openSafetensors, readTensor, type Tensor, tensor } from "../tensor/index.js";
import { configText } from "./config-text.js";
import { loadModel } from "./load.js";
import { probe, runModel } from "./probe.js";
import { saveModel } from "./save.js";
import { initTensorModel, tensorModel } from "./tensor-model.js";
import type { TensorModel } from "./types.js";

const FIXTURES = new URL("../../fixtures/text-models/", import.meta.url).pathname;
const names = readdirSync(FIXTURES);
const temporary = () => mkdtemp(join(tmpdir(), "tunesmith-tensor-model-"));
const load = (name: string, options: object = {}) =>
  loadModel(name.startsWith("/") ? name : `${FIXTURES}${name}`, {
    task: "auto",
    ...options,
  }) as Promise<TensorModel>;

async function outputsOf(model: TensorModel): Promise<Record<string, Tensor>> {
  return runModel(model, probe(model).feeds);
}

async function numbers(model: TensorModel, name: string): Promise<number[]> {
  const source = model.weights.get(name)?.source;
  if (source?.kind !== "constant") throw new Error(`no weight ${name}`);
  return Array.from((await readTensor(source.data)).data as Float32Array);
}

describe("saving", () => {
  test.each(names)("%s: saved and loaded again gives the same, to the bit", async (name) => {
    const model = await load(name);
    const folder = join(await temporary(), "model");
    await saveModel(model, folder);
    const again = await load(folder);
    expect(again.task).toBe(model.task);
    expect([...again.weights.keys()].sort()).toEqual([...model.weights.keys()].sort());
    const [before, after] = [await outputsOf(model), await outputsOf(again)];
    expect(Object.keys(after)).toEqual(Object.keys(before));
    for (const [key, value] of Object.entries(before)) {
      expect(maxAbsDiff(after[key] as Tensor, value), key).toBe(0);
    }
    const own = JSON.parse(readFileSync(`${FIXTURES}${name}/config.json`, "utf8"));
    const saved = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    expect(saved.architectures).toEqual(own.architectures);
    expect(saved.id2label).toEqual(own.id2label);
  });

  test("a model of vectors is a sentence-transformers folder", async () => {
    const folder = join(await temporary(), "model");
    const base = await load("bert-vectors", {
      config: { sentence_pooling: { mode: "max", normalize: true } },
    });
    const { files } = await saveModel(base, folder);
    expect(files).toContain("1_Pooling/config.json");
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, sentence_pooling: undefined }));
    const again = await load(folder, { task: "embedding" });
    expect(again.config.sentence_pooling).toEqual({ mode: "max", normalize: true });
    const [before, after] = [await outputsOf(base), await outputsOf(again)];
    expect(after.sentence_embedding?.data).toEqual(before.sentence_embedding?.data);
    writeFileSync(
      join(folder, "modules.json"),
      '[{"type":"sentence_transformers.models.Dense","path":"2_Dense"}]',
    );
    await expect(load(folder)).rejects.toMatchObject({ code: "architecture-unsupported" });
    expect((await load(folder, { task: "masked-lm" })).task).toBe("masked-lm");
  });
});

test("numbers with a point keep it, as transformers demands", async () => {
  const folder = join(await temporary(), "model");
  await saveModel(await load("t5"), folder);
  const text = readFileSync(join(folder, "config.json"), "utf8");
  expect(text).toMatch(/"initializer_factor": 1\.0,/);
  expect(text).toMatch(/"d_model": 16,/);
  expect(configText({ odd: 2, whole: 2, hidden_dropout: 0 }, '{ "odd": 2.0 }')).toBe(
    '{\n  "odd": 2.0,\n  "whole": 2,\n  "hidden_dropout": 0.0\n}\n',
  );
});

describe("pooling", () => {
  const read = async (pooling: object) => {
    const model = await load("bert-vectors", { config: { sentence_pooling: pooling } });
    const file = await openSafetensors(`${FIXTURES}bert-vectors/expected.safetensors`);
    const given = Object.fromEntries(
      await Promise.all(
        model.inputs.map(async ({ name }) => [name, await file.read(`input.${name}`)] as const),
      ),
    );
    const { sentence_embedding, last_hidden_state } = await runModel(model, given);
    return {
      vector: Array.from(sentence_embedding?.data as Float32Array).slice(0, 16),
      states: last_hidden_state?.data as Float32Array,
    };
  };
  /** Of the six real tokens of row 0. */
  const column = (states: Float32Array, at: number) =>
    Array.from({ length: 6 }, (_, row) => states[row * 16 + at] as number);

  test("the first token, the largest of each feature, the sum over the root of the length", async () => {
    const cls = await read({ mode: "cls" });
    expect(cls.vector).toEqual(Array.from(cls.states.slice(0, 16)));
    const max = await read({ mode: "max" });
    max.vector.forEach((value, at) => {
      expect(value).toBe(Math.max(...column(max.states, at)));
    });
    const root = await read({ mode: "mean_sqrt_len" });
    root.vector.forEach((value, at) => {
      const sum = column(root.states, at).reduce((a, b) => a + b, 0);
      expect(value).toBeCloseTo(sum / Math.sqrt(6), 5);
    });
  });

  test("normalised vectors have length 1", async () => {
    const { vector } = await read({ mode: "mean", normalize: true });
    expect(Math.hypot(...vector)).toBeCloseTo(1, 6);
  });
});

describe("tasks", () => {
  test("a file without the head gets a fresh one, by the seed", async () => {
    const options = { task: "token-classification", labels: ["O", "B", "I"] };
    const model = await load("bert-words", { ...options, seed: 1 });
    expect(model.labels).toEqual(["O", "B", "I"]);
    expect((await outputsOf(model)).logits?.shape).toEqual([1, 8, 3]);
    const weight = await numbers(model, "classifier.weight");
    expect(Math.max(...weight.map(Math.abs))).toBeGreaterThan(0);
    expect(await numbers(await load("bert-words", { ...options, seed: 1 }), "classifier.weight")).toEqual(
      weight,
    );
    expect(await numbers(await load("bert-words", { ...options, seed: 2 }), "classifier.weight")).not.toEqual(
      weight,
    );
    expect([...model.weights.keys()].filter((name) => name.startsWith("cls."))).toEqual([]);
  });

  test("bodies go between tasks with the same numbers", async () => {
    const name = "encoder.layer.0.output.dense.weight";
    const vectors = await load("bert-classes", { task: "embedding" });
    const classes = await load("bert-vectors", { task: "sequence-classification", labels: 5 });
    expect(await numbers(vectors, name)).toEqual(await numbers(await load("bert-classes"), `bert.${name}`));
    expect(await numbers(classes, `bert.${name}`)).toEqual(await numbers(await load("bert-vectors"), name));
    const sounds = await load("whisper", { task: "audio-classification", labels: ["a", "b"] });
    expect((await outputsOf(sounds)).logits?.shape).toEqual([1, 2]);
    const encoder = await load("t5", { task: "embedding" });
    expect((await outputsOf(encoder)).sentence_embedding?.shape).toEqual([1, 16]);
  });

  test("other classes, a number instead of classes", async () => {
    const more = await load("roberta-classes", { labels: 7 });
    expect((await outputsOf(more)).logits?.shape).toEqual([1, 7]);
    const body = "classifier.dense.weight";
    expect(await numbers(more, body)).toEqual(await numbers(await load("roberta-classes"), body));
    const number = await load("bert-vectors", { task: "regression" });
    expect(number.task).toBe("regression");
    expect((await outputsOf(number)).logits?.shape).toEqual([1, 1]);
    expect(number.config).toMatchObject({ num_labels: 1, problem_type: "regression" });
  });

  test("holes, foreign tensors, other shapes and missing heads are typed errors", async () => {
    const edited = async (name: string, edit: (config: Record<string, unknown>) => void) => {
      const folder = join(await temporary(), "model");
      mkdirSync(folder);
      cpSync(`${FIXTURES}${name}`, folder, { recursive: true });
      const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
      edit(config);
      writeFileSync(join(folder, "config.json"), JSON.stringify(config));
      return folder;
    };
    const deeper = await edited("bert-words", (config) => {
      config.num_hidden_layers = 3;
    });
    await expect(load(deeper)).rejects.toMatchObject({ code: "tensor-not-found" });
    const shallower = await edited("bert-words", (config) => {
      config.num_hidden_layers = 1;
    });
    await expect(load(shallower)).rejects.toMatchObject({ code: "tensor-unused" });
    const wider = await edited("bert-words", (config) => {
      config.intermediate_size = 24;
    });
    await expect(load(wider)).rejects.toMatchObject({ code: "shape-mismatch" });
    const relative = await edited("bert-words", (config) => {
      config.position_embedding_type = "relative_key";
    });
    await expect(load(relative)).rejects.toMatchObject({ code: "config-invalid" });
    await expect(load("bert-words", { task: "seq2seq" })).rejects.toMatchObject({ code: "task-mismatch" });
    expect(existsSync(deeper)).toBe(true);
  });

  test("old names of norms, and bodies without their prefix", async () => {
    const model = await load("bert-words");
    const old = [...model.weights].map(([name, value]) => {
      const renamed = name
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta");
      return [renamed.replace(/^bert\./, ""), value] as const;
    });
    const again = tensorModel(model.config, new Map(old));
    expect([...again.weights.keys()].sort()).toEqual([...model.weights.keys()].sort());
    expect(again.task).toBe("masked-lm");
  });
});

test("an untied head reads the bias at its decoder", async () => {
  const model = await load("bert-words");
  const name = "cls.predictions.bias";
  const more = (await numbers(model, name)).map((value) => value + 1);
  const table = model.weights.get("bert.embeddings.word_embeddings.weight") as Value;
  const untied = tensorModel(
    { ...model.config, tie_word_embeddings: false },
    new Map([
      ...model.weights,
      ["cls.predictions.decoder.weight", table],
      ["cls.predictions.decoder.bias", constant(tensor("float32", [50], more))],
    ]),
  );
  const [before, after] = [(await outputsOf(model)).logits, (await outputsOf(untied)).logits];
  Array.from(before?.data as Float32Array).forEach((value, at) => {
    expect((after as Tensor).data[at]).toBeCloseTo(value + 1, 4);
  });
});

describe("fresh models", () => {
  test.each(names)("%s: the same tensors as the reference's, by the seed", async (name) => {
    const { config, task, weights } = await load(name);
    const model = initTensorModel(config, { task, seed: 3 });
    expect(model.task).toBe(task);
    const shapes = (all: TensorModel["weights"]) =>
      [...all]
        .filter(([key]) => !key.startsWith("pooler."))
        .map(([key, { shape }]) => `${key} ${shape.join()}`)
        .sort();
    const untied = name === "t5-gated" ? ["lm_head.weight 50,16"] : [];
    expect(shapes(model.weights)).toEqual(shapes(weights).filter((each) => !untied.includes(each)));
    const first = await outputsOf(model);
    const again = await outputsOf(initTensorModel(config, { task, seed: 3 }));
    const other = await outputsOf(initTensorModel(config, { task, seed: 4 }));
    const main = Object.keys(first)[0] as string;
    expect(first[main]?.data).toEqual(again[main]?.data);
    expect(first[main]?.data).not.toEqual(other[main]?.data);
    expect(Array.from((first[main] as Tensor).data as Float32Array).every(Number.isFinite)).toBe(true);
  });
});
