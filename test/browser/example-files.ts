/** What the example page is given, made by our own export, and a check in Node of what it gives back. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { encode } from "fast-png";
import { zipSync } from "fflate";
import { loadAdapter } from "../../src/methods/index.js";
import { exportOnnx, initTensorModel, loadModel, logitsOf, probeIds } from "../../src/models/index.js";
import { maxAbsDiff } from "../../src/tensor/index.js";

const SIDE = 12;

/** Pictures of two classes, brighter above or brighter below, in a folder each. */
function pictures(): Uint8Array {
  const files = Array.from({ length: 16 }, (_, index): [string, Uint8Array] => {
    const label = index % 2 === 0 ? "above" : "below";
    const data = Uint8Array.from({ length: 3 * SIDE * SIDE }, (_, at) => {
      const isBright = at < (3 * SIDE * SIDE) / 2 === (label === "above");
      return (isBright ? 180 : 30) + ((7 * index + 13 * at) % 40);
    });
    return [`${label}/${index}.png`, encode({ width: SIDE, height: SIDE, channels: 3, depth: 8, data })];
  });
  return zipSync(Object.fromEntries(files));
}

/** Writes a language model, a small convolutional classifier and data for each; gives their paths. */
export async function exampleFiles(root: string, folder: string) {
  const [languageModel, classifier] = [join(folder, "lm"), join(folder, "classifier")];
  await exportOnnx(await loadModel(join(root, "assets/default-model")), languageModel);
  const image = [3, SIDE, SIDE] as [number, number, number];
  const conv = (name: string, out: number) => [
    { type: "conv", name, out, kernel: 3, padding: 1 },
    { type: "activation", function: "relu" },
    { type: "max_pool", kernel: 2 },
  ];
  const layers = [
    ...[...conv("first", 8), ...conv("second", 16)],
    ...[{ type: "flatten" }, { type: "linear", name: "head", out: 2 }],
  ];
  const labels = ["above", "below"];
  const net = initTensorModel(
    { model_type: "conv_net", image, layers },
    { task: "image-classification", labels },
  );
  await exportOnnx(net, classifier);
  const text = join(folder, "text.txt");
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    text,
    readFileSync(join(root, "fixtures/default-model/held-out.ts"), "utf8").slice(0, 20_000),
  );
  const zip = join(folder, "pictures.zip");
  writeFileSync(zip, pictures());
  const all = (of: string, names: readonly string[]) => names.map((name) => join(of, name));
  return {
    languageModel: all(languageModel, [
      "model.onnx",
      "config.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]),
    classifier: all(classifier, ["model.onnx", "config.json"]),
    text,
    pictures: zip,
  };
}

/** The largest difference in Node between the logits of base and adapter, and those of the merged file; and what the adapter does. */
export async function checkResult(base: string, adapter: string, merged: string) {
  const model = await loadModel(base);
  const ids = probeIds(model.sizes.vocabSize, 16);
  const adapted = await logitsOf(await loadAdapter(model, adapter), ids);
  return {
    difference: maxAbsDiff(await logitsOf(await loadModel(merged), ids), adapted),
    change: maxAbsDiff(await logitsOf(model, ids), adapted),
  };
}
