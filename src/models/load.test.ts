import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { loadModel } from "./load.js";
import { probeOutputs } from "./probe.js";

const FIXTURES = new URL("../../fixtures/", import.meta.url).pathname;

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "load-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const failure = async (path: string): Promise<TunesmithError> => {
  const error = await loadModel(path, { offline: true, cacheDir: folder }).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(TunesmithError);
  return error as TunesmithError;
};

test("a folder, its weight file and its config are the same model", async () => {
  for (const path of ["models/llama", "models/llama/model.safetensors", "models/llama/config.json"]) {
    expect((await loadModel(`${FIXTURES}${path}`)).weights.size).toBe(21);
  }
});

test("a folder with one llama2.c checkpoint beside a tokenizer is that checkpoint", async () => {
  const path = join(folder, "story");
  await mkdir(path);
  await cp(`${FIXTURES}llama2c/legacy.bin`, join(path, "story.bin"));
  expect((await loadModel(path)).origin).toBe(join(path, "story.bin"));
  await cp(`${FIXTURES}llama2c/untied.bin`, join(path, "other.bin"));
  const error = await failure(path);
  expect(error.code).toBe("file-not-found");
  expect(error.message).toContain("other.bin");
});

test.each([
  [{ vocab_size: 100 }, "shape-mismatch", /model\.embed_tokens\.weight' is \[72, 24\].*\[100, 24\]/],
  [{ intermediate_size: 7 }, "shape-mismatch", /gate_proj/],
  [{ num_attention_heads: 5 }, "config-invalid", /5 heads/],
  [{ num_key_value_heads: 3 }, "config-invalid", /3 for keys/],
  [{ num_hidden_layers: 1e9 }, "tensor-not-found", /layers\.2\./],
  [{ rope_parameters: { rope_theta: "far" } }, "config-invalid", /rope_parameters\.rope_theta/],
  [{ hidden_size: undefined }, "config-invalid", /hidden_size/],
  [{ hidden_act: "magic" }, "architecture-unsupported", /magic/],
])("a config that does not describe its weights: %j", async (change, code, message) => {
  const path = await mkdtemp(join(folder, "config-"));
  await cp(`${FIXTURES}models/llama/model.safetensors`, join(path, "model.safetensors"));
  const config = JSON.parse(await readFile(`${FIXTURES}models/llama/config.json`, "utf8")) as object;
  await writeFile(join(path, "config.json"), JSON.stringify({ ...config, ...change }));
  const error = await loadModel(path)
    .then((model) => probeOutputs(model))
    .catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(TunesmithError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
});

test("what is missing or of another kind is named, with what was tried", async () => {
  const missing = await failure(join(folder, "nothing"));
  expect(missing).toMatchObject({
    code: "file-not-found",
    fix: expect.stringContaining("organisation/name"),
  });
  expect((await failure("folder/missing.onnx")).code).toBe("file-not-found");
  const offline = await failure("folder/missing");
  expect(offline).toMatchObject({ code: "offline", message: expect.stringContaining("folder/missing") });
  const other = join(folder, "model.gguf");
  await writeFile(other, "GGUF");
  expect((await failure(other)).code).toBe("format-unsupported");
  await mkdir(join(folder, "empty"));
  expect((await failure(join(folder, "empty"))).fix).toContain("config.json");
});
