/** Models from files that a user picked. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { joinPath, listDir, remove, tempDir } from "#io";
import { storeFiles } from "../io/stored.js";
import { maxAbsDiff } from "../tensor/index.js";
import { exportOnnx, loadModel, logitsOf } from "./index.js";

const FIXTURE = new URL("../../fixtures/models/gpt2", import.meta.url).pathname;
const IDS = [5, 9, 33, 2, 7];
let folder = "";
beforeAll(async () => {
  folder = await tempDir();
});
afterAll(() => remove(folder));

/** Files as a file field gives them; those of a folder know where they were. */
async function pick(from: string, names: readonly string[], top?: string): Promise<File[]> {
  return names.map((name) => {
    const file = new File([readFileSync(joinPath(from, name))], name);
    return top === undefined ? file : Object.assign(file, { webkitRelativePath: `${top}/${name}` });
  });
}

test.each([
  ["one ONNX file", "never", ["model.onnx"]],
  ["an ONNX file with its weights in another", "always", ["model.onnx", "model.onnx_data"]],
] as const)("%s", async (_what, external, names) => {
  const exported = joinPath(folder, external);
  await exportOnnx(await loadModel(FIXTURE), exported, { external });
  expect(await listDir(exported)).toEqual(expect.arrayContaining([...names]));
  const { path } = await storeFiles(await pick(exported, names), { root: joinPath(folder, "stored") });
  const model = await loadModel(path);
  expect(maxAbsDiff(await logitsOf(model, IDS), await logitsOf(await loadModel(FIXTURE), IDS))).toBeLessThan(
    1e-5,
  );
});

test("a folder: config.json, model.safetensors and what else is there", async () => {
  const names = (await listDir(FIXTURE)).filter((name) => /^(config\.json|model\.safetensors)$/.test(name));
  const { path, files } = await storeFiles(await pick(FIXTURE, names, "gpt2"), {
    root: joinPath(folder, "stored"),
  });
  expect(files.map(({ name }) => name)).toEqual(["config.json", "model.safetensors"]);
  const model = await loadModel(path);
  expect(model.architecture).toBe("gpt2");
  expect(maxAbsDiff(await logitsOf(model, IDS), await logitsOf(await loadModel(FIXTURE), IDS))).toBe(0);
});
