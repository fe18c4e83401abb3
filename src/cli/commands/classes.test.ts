import { expect, test } from "vitest";
import { initModel, loadModel } from "../../models/index.js";
import { classesIn, freshModules } from "./task-model.js";

const FILE = new URL("../../../fixtures/adaptable/vit.onnx", import.meta.url).pathname;
const vit = (labels?: readonly string[]) => loadModel(FILE, { task: "image-classification", labels });

test("--head takes a number of classes or their names, for classifiers only", async () => {
  const model = await vit();
  expect(classesIn(undefined, model)).toBeUndefined();
  expect(classesIn(["3"], model)).toEqual(["LABEL_0", "LABEL_1", "LABEL_2"]);
  expect(classesIn(["cat", "dog"], model)).toEqual(["cat", "dog"]);
  // Names in the data come first; numbers there are indices.
  expect(classesIn(["3"], model, ["cat", "dog"])).toEqual(["cat", "dog", "LABEL_2"]);
  expect(classesIn(["3"], model, [0, 2])).toEqual(["LABEL_0", "LABEL_1", "LABEL_2"]);
  expect(() => classesIn(["1"], model, ["cat", "dog"])).toThrow(/2 classes in the data: cat, dog/);
  const lm = initModel({
    model_type: "llama",
    vocab_size: 20,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  });
  expect(() => classesIn(["2"], lm)).toThrow(/--head is of classifiers, not of causal-lm/);
});

test("a fresh head of an imported classifier is trained whole, one that is kept is not", async () => {
  const own = await vit();
  expect(freshModules(own, await vit(["a", "b"]))).toEqual(["classifier"]);
  expect(freshModules(own, await vit(["a", "b", "c"]))).toEqual([]);
});
