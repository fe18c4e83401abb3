import { existsSync } from "node:fs";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { maxAbsDiff, openSafetensors, type Tensor } from "../tensor/index.js";
import { generate } from "./generate/index.js";
import { loadLlama2c } from "./llama2c.js";
import { loadModel } from "./load.js";
import { logitsOf } from "./probe.js";

const FIXTURES = new URL("../../fixtures/llama2c/", import.meta.url).pathname;
const ASSET = join(process.env.TUNESMITH_ASSETS ?? "../shared/assets", "models/stories260K");

const codeOf = async (promise: Promise<unknown>) => {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(TunesmithError);
  return (error as TunesmithError).code;
};

describe.each(["legacy", "untied", "version1"])("%s", (name) => {
  test("logits equal llama2.c's arithmetic", async () => {
    const model = await loadLlama2c(`${FIXTURES}${name}.bin`);
    const expected = await openSafetensors(`${FIXTURES}expected.safetensors`);
    const ids = Array.from((await expected.read(`${name}.ids`)).data as BigInt64Array, Number);
    const logits = await logitsOf(model, ids);
    expect(maxAbsDiff(logits, await expected.read(`${name}.logits`))).toBeLessThan(2e-5);
    expect(model.weights.has("lm_head.weight")).toBe(name !== "legacy");
  });
});

test("only query and key projections are copied; all else stays in the file", async () => {
  const model = await loadLlama2c(`${FIXTURES}legacy.bin`);
  for (const [name, value] of model.weights) {
    const inFile = value.source.kind === "constant" && "source" in value.source.data;
    expect(inFile, name).toBe(!/\.[qk]_proj\./.test(name));
  }
});

test("damaged checkpoints are refused before anything is allocated", async () => {
  const folder = await mkdtemp(join(tmpdir(), "llama2c-"));
  const bytes = await readFile(`${FIXTURES}legacy.bin`);
  const write = async (content: Uint8Array) => {
    const path = join(folder, "model.bin");
    await writeFile(path, content);
    return path;
  };
  const patched = (index: number, value: number) => {
    const copy = Buffer.from(bytes);
    copy.writeInt32LE(value, 4 * index);
    return copy;
  };
  expect(await codeOf(loadLlama2c(await write(bytes.subarray(0, -4))))).toBe("file-corrupt");
  expect(await codeOf(loadLlama2c(await write(Buffer.concat([bytes, bytes.subarray(0, 4)]))))).toBe(
    "file-corrupt",
  );
  expect(await codeOf(loadLlama2c(await write(patched(5, 2 ** 23))))).toBe("file-corrupt");
  expect(await codeOf(loadLlama2c(await write(patched(2, -1))))).toBe("file-corrupt");
  expect(await codeOf(loadLlama2c(await write(patched(3, 3))))).toBe("file-corrupt");
  expect(await codeOf(loadLlama2c(await write(bytes.subarray(0, 12))))).toBe("file-corrupt");
  const quantised = await readFile(`${FIXTURES}version1.bin`);
  quantised.writeInt32LE(2, 4);
  expect(await codeOf(loadLlama2c(await write(quantised)))).toBe("format-unsupported");
});

const present = existsSync(ASSET);
test.skipIf(!present)(
  `stories260K tells a story${present ? "" : ` (skipped: ${ASSET} is absent)`}`,
  async () => {
    const model = await loadModel(ASSET);
    const { text, ids } = await generate(model, "", { maxTokens: 120 });
    // What llama2.c's run.c prints for this checkpoint at temperature 0.
    expect(text).toMatch(
      /^Once upon a time, there was a little girl named Lily\. She loved to play outside in the park\./,
    );
    expect(ids.length).toBe(120);
    const logits: Tensor = await logitsOf(model, [1, 403, 407, 261, 378]);
    expect(logits.shape).toEqual([5, 512]);
  },
);
