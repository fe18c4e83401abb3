import { existsSync, readdirSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { constant, ops } from "../graph/index.js";
import { maxAbsDiff, openSharded, tensor } from "../tensor/index.js";
import { loadFolder, loadModel } from "./load.js";
import { logitsOf, probeIds } from "./probe.js";
import { rewriteOutputs } from "./rewrite.js";
import { saveModel } from "./save.js";
import type { CausalLm } from "./types.js";

const FIXTURES = new URL("../../fixtures/", import.meta.url).pathname;
const MODELS = `${FIXTURES}models/`;
const names = readdirSync(MODELS).filter((name) => existsSync(`${MODELS}${name}/config.json`));

let folder = "";
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), "save-")), "model");
  return () => rm(folder, { recursive: true, force: true });
});

const config = async () => JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
const probe = (model: CausalLm) => logitsOf(model, probeIds(model.sizes.vocabSize));
const failure = async (promise: Promise<unknown>): Promise<TunesmithError> => {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(TunesmithError);
  return error as TunesmithError;
};

test.each(names)("%s: saved and loaded again gives the same logits, to the bit", async (name) => {
  const model = await loadFolder(`${MODELS}${name}`);
  const { files } = await saveModel(model, folder);
  expect(files).toEqual(["model.safetensors", "config.json"]);
  const again = await loadFolder(folder);
  expect((await probe(again)).data).toEqual((await probe(model)).data);
  expect([...again.weights.keys()].sort()).toEqual([...model.weights.keys()].sort());
  const { tie_word_embeddings: tied } = await config();
  expect(tied).toBe(model.config.tie_word_embeddings ?? (name === "gpt2" || name.startsWith("gemma")));
});

test("shards, with an index", async () => {
  const model = await loadFolder(`${MODELS}llama`);
  const { files } = await saveModel(model, folder, { maxShardBytes: 20_000 });
  expect(files.filter((file) => file.endsWith(".safetensors")).length).toBeGreaterThan(2);
  expect(files).toContain("model.safetensors.index.json");
  expect((await probe(await loadFolder(folder))).data).toEqual((await probe(model)).data);
});

test("half precision halves the file and is written into the config", async () => {
  const model = await loadFolder(`${MODELS}llama`);
  await saveModel(model, folder, { dtype: "bfloat16" });
  const stored = await openSharded(folder);
  expect(new Set([...stored.entries.values()].map(({ dtype }) => dtype))).toEqual(new Set(["bfloat16"]));
  const { dtype, torch_dtype: older } = await config();
  expect(dtype ?? older).toBe("bfloat16");
  const difference = maxAbsDiff(await probe(await loadFolder(folder)), await probe(model));
  expect(difference).toBeGreaterThan(0);
  expect(difference).toBeLessThan(0.1);
});

test("a llama2.c checkpoint becomes a Hugging Face folder", async () => {
  const model = await loadModel(`${FIXTURES}llama2c/untied.bin`);
  await saveModel(model, folder);
  const again = await loadModel(folder);
  expect(again.architecture).toBe("llama");
  expect((await probe(again)).data).toEqual((await probe(model)).data);
});

test("tokenizer files travel along", async () => {
  const origin = join(await mkdtemp(join(tmpdir(), "save-origin-")), "m");
  await cp(`${MODELS}llama`, origin, { recursive: true });
  for (const name of ["merges.txt", "tokenizer_config.json"]) await writeFile(join(origin, name), "{}");
  const { files } = await saveModel(await loadFolder(origin), folder);
  expect(files).toEqual(expect.arrayContaining(["merges.txt", "tokenizer_config.json"]));
  expect(await readFile(join(folder, "merges.txt"), "utf8")).toBe("{}");
});

describe("a changed model", () => {
  test("with a head of its own is no longer tied", async () => {
    const model = await loadFolder(`${MODELS}smollm`);
    const embedding = model.weights.get("model.embed_tokens.weight");
    if (!embedding) throw new Error("the fixture has no embedding");
    const head = constant(
      tensor("float32", embedding.shape as number[], new Float32Array(72 * 24).fill(0.5)),
      "lm_head.weight",
    );
    const changed: CausalLm = {
      ...model,
      weights: new Map([...model.weights, ["lm_head.weight", head]]),
      build: (inputs) =>
        rewriteOutputs(model.build(inputs), {
          visit: (node, [x]) =>
            node.scope === "lm_head" && x ? [ops.gemm(x, head, undefined, { transB: true })] : undefined,
        }),
    };
    await saveModel(changed, folder);
    expect((await config()).tie_word_embeddings).toBe(false);
    expect((await probe(await loadFolder(folder))).data).toEqual((await probe(changed)).data);
    const unlisted = { ...changed, weights: model.weights };
    expect((await failure(saveModel(unlisted, folder))).code).toBe("graph-invalid");
  });

  test("with a computed weight stores its value", async () => {
    const model = await loadFolder(`${MODELS}llama`);
    const norm = model.weights.get("model.norm.weight");
    if (!norm) throw new Error("the fixture has no norm");
    const doubled = ops.mul(norm, 2);
    const build: CausalLm["build"] = (inputs) =>
      rewriteOutputs(model.build(inputs), { replace: new Map([[norm, doubled]]) });
    const changed = { ...model, build, weights: new Map([...model.weights, ["model.norm.weight", doubled]]) };
    await saveModel(changed, folder);
    expect(maxAbsDiff(await probe(await loadFolder(folder)), await probe(changed))).toBeLessThan(1e-6);
  });
});

test("what a folder cannot hold is refused, and the model's own folder is not overwritten", async () => {
  const model = await loadFolder(`${MODELS}llama`);
  await saveModel(model, folder);
  const copy = await loadFolder(folder);
  expect((await failure(saveModel(copy, folder))).code).toBe("file-write-failed");
  expect(existsSync(join(folder, "config.json"))).toBe(true);
  const value = model.weights.get("model.norm.weight");
  if (!value) throw new Error("the fixture has no norm");
  const parameter = { name: "x", value, tensor: tensor("float32", [1], [0]), trainable: true };
  const adapted = { ...model, parameters: new Map([["x", parameter]]) };
  expect((await failure(saveModel(adapted, folder))).code).toBe("adapter-invalid");
  const foreign = { ...model, config: { model_type: "onnx" }, architecture: "onnx" };
  expect((await failure(saveModel(foreign, folder))).code).toBe("format-unsupported");
});
