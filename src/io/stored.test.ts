import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { fileExists, listDir, readText, remove, tempDir, writeFileAtomic } from "./node.js";
import { removeStoredFiles, type StoreProgress, storedFiles, storeFiles } from "./stored.js";

const space = vi.hoisted(() => ({ left: Number.POSITIVE_INFINITY }));
vi.mock("#io", async (original) => ({
  ...(await original<typeof import("#io")>()),
  spaceLeft: async () => space.left,
}));

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "none",
    (error) => (error instanceof TunesmithError ? error.code : String(error)),
  );

let root = "";
beforeEach(async () => {
  root = await tempDir();
  space.left = Number.POSITIVE_INFINITY;
});
afterEach(() => remove(root));

const file = (name: string, text: string, path?: string): File => {
  const made = new File([text], name);
  return path === undefined ? made : Object.assign(made, { webkitRelativePath: path });
};

test("one file: stored once under its content, listed, read, removed", async () => {
  const phases: StoreProgress[] = [];
  const onProgress = (progress: StoreProgress) => void phases.push(progress);
  const first = await storeFiles([file("model.onnx", "abc")], { root, onProgress });
  expect(first.bytes).toBe(3);
  expect(await readText(first.path)).toBe("abc");
  expect(first.path.endsWith("model.onnx")).toBe(true);
  expect(phases).toEqual([
    { phase: "hash", done: 3, total: 3 },
    { phase: "copy", done: 3, total: 3 },
  ]);
  phases.length = 0;
  expect(await storeFiles([file("model.onnx", "abc")], { root, onProgress })).toEqual(first);
  expect(phases.map(({ phase }) => phase)).toEqual(["hash"]);
  const other = await storeFiles([file("model.onnx", "abd")], { root });
  expect(other.id).not.toBe(first.id);
  expect((await storedFiles({ root })).map(({ id }) => id).sort()).toEqual([first.id, other.id].sort());
  await removeStoredFiles(first.id, { root });
  await removeStoredFiles(first.id, { root });
  expect((await storedFiles({ root })).map(({ id }) => id)).toEqual([other.id]);
  expect(await fileExists(first.path)).toBe(false);
  expect(await codeOf(removeStoredFiles("../x", { root }))).toBe("config-invalid");
});

test("a picked folder keeps its folders, without the one around them; the order of files says nothing", async () => {
  const files = [file("config.json", "{}", "gpt/config.json"), file("m.onnx", "x", "gpt/onnx/m.onnx")];
  const stored = await storeFiles(files, { root });
  expect(await listDir(stored.path)).toEqual(["config.json", "onnx"]);
  expect(await readText(join(stored.path, "onnx/m.onnx"))).toBe("x");
  expect((await storeFiles(files.reverse(), { root })).id).toBe(stored.id);
});

test("a set whose copy was cut off is not listed, and is copied again", async () => {
  const stored = await storeFiles([file("a", "abc"), file("b", "de")], { root });
  await writeFileAtomic(join(stored.path, "a"), "a");
  expect(await storedFiles({ root })).toEqual([]);
  await storeFiles([file("a", "abc"), file("b", "de")], { root });
  expect(await readText(join(stored.path, "a"))).toBe("abc");
});

describe("refused with a typed error, leaving nothing", () => {
  const blob = new Blob(["x"]);
  const signal = AbortSignal.abort();
  const cases: [string, Parameters<typeof storeFiles>[0], object, string][] = [
    ["no files", [], {}, "config-invalid"],
    ["a name that leaves the folder", [{ name: "../x", blob }], {}, "config-invalid"],
    ["an absolute name", [{ name: "/x", blob }], {}, "config-invalid"],
    ["two files of one name", [file("a", "1"), file("a", "2")], {}, "name-conflict"],
    ["an aborted signal", [file("a", "1")], { signal }, "cancelled"],
  ];
  test.each(cases)("%s", async (_what, files, extra, code) => {
    expect(await codeOf(storeFiles(files, { root, ...extra }))).toBe(code);
    expect(await listDir(root)).toEqual([]);
  });
});

test("what cannot fit is refused before anything is copied", async () => {
  space.left = 2;
  const phases: string[] = [];
  const onProgress = ({ phase }: StoreProgress) => void phases.push(phase);
  const stored = storeFiles([file("a", "abc")], { root, onProgress });
  await expect(stored).rejects.toMatchObject({ code: "storage-full", details: { needed: 3, left: 2 } });
  expect(phases).toEqual(["hash"]);
  expect(await listDir(root)).toEqual([]);
});
