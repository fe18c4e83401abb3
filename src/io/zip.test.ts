import { unzipSync } from "fflate";
import { expect, test } from "vitest";
import { joinPath, makeDir, remove, tempDir, writeFileAtomic } from "./node.js";
import { zipFolder } from "./zip.js";

test("a folder as an archive, the same bytes each time", async () => {
  const folder = await tempDir();
  const weights = Uint8Array.from({ length: 100_000 }, (_, at) => (at * 7) % 256);
  await makeDir(joinPath(folder, "onnx"));
  await writeFileAtomic(joinPath(folder, "config.json"), "{}");
  await writeFileAtomic(joinPath(folder, "empty"), "");
  await writeFileAtomic(joinPath(folder, "onnx", "model.onnx"), weights);
  const bytes = async () => new Uint8Array(await (await zipFolder(folder)).arrayBuffer());
  const archive = await bytes();
  const files = unzipSync(archive);
  expect(Object.keys(files)).toEqual(["config.json", "empty", "onnx/model.onnx"]);
  expect(files["onnx/model.onnx"]).toEqual(weights);
  expect(new TextDecoder().decode(files["config.json"])).toBe("{}");
  expect(await bytes()).toEqual(archive);
  await remove(folder);
});
