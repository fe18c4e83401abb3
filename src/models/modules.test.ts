import { expect, test } from "vitest";
import { loadModel } from "./load.js";
import { type Module, modulesOf } from "./modules.js";
import { probeOutputs } from "./probe.js";

const FIXTURES = new URL("../../fixtures/", import.meta.url).pathname;
const treeOf = async (path: string) =>
  modulesOf(probeOutputs(await loadModel(`${FIXTURES}${path}`, { task: "auto" })));

const all = (module: Module): Module[] => [module, ...module.children.flatMap(all)];
const find = (root: Module, path: string): Module => {
  const found = all(root).find((module) => module.path === path);
  if (!found) throw new Error(`no module ${path} among ${all(root).map((module) => module.path)}`);
  return found;
};

test("a BERT: attention, blocks, norms and the head are told, residual sums are found", async () => {
  const root = await treeOf("adaptable/bert.onnx");
  expect(find(root, "bert.encoder.layer.0").kind).toBe("block");
  expect(find(root, "bert.encoder.layer.0.attention.self").kind).toBe("attention");
  expect(find(root, "bert.encoder.layer.1.attention.output").residuals).toBe(1);
  expect(find(root, "bert.encoder.layer.1.output").residuals).toBe(1);
  expect(find(root, "bert.embeddings").residuals).toBe(0);
  expect(find(root, "bert.embeddings.LayerNorm")).toMatchObject({
    kind: "norm",
    shapes: { weight: [32], bias: [32] },
  });
  expect(find(root, "classifier")).toMatchObject({ kind: "head", parameters: 3 * 32 + 3 });
  expect(find(root, "bert.embeddings.word_embeddings")).toMatchObject({
    kind: "embedding",
    shapes: { weight: [64, 32] },
  });
});

test.each([
  "adaptable/bert",
  "adaptable/vit",
  "adaptable/anonymous",
  "adaptable/convnet_qdq",
  "onnx/gpt2",
  "onnx/lstm",
])("%s: every module has a path, numbers below add up, every tensor counts once", async (name) => {
  const root = await treeOf(`${name}.onnx`);
  const modules = all(root);
  expect(modules.filter(({ path }) => path === "")).toEqual([root]);
  expect(new Set(modules.map(({ path }) => path)).size).toBe(modules.length);
  for (const { parameters, children } of modules)
    expect(children.reduce((sum, child) => sum + child.parameters, 0)).toBeLessThanOrEqual(parameters);
  expect(root.parameters).toBe(root.children.reduce((sum, child) => sum + child.parameters, 0));
});

test("a written-out norm is one module; a fused projection tells its parts; a transposed convolution is listed", async () => {
  const anonymous = await treeOf("adaptable/anonymous.onnx");
  expect(find(anonymous, "features.1.norm")).toMatchObject({
    kind: "norm",
    shapes: { weight: [8], bias: [8] },
  });
  expect(find(anonymous, "features.4.conv")).toMatchObject({
    kind: "conv",
    shapes: { weight: [1, 2, 3, 3] },
  });
  expect(find(anonymous, "features.4.conv").map).toBeUndefined();
  const gpt2 = await treeOf("onnx/gpt2.onnx");
  const fused = all(gpt2).find(({ path }) => path.endsWith("h.0.attn.c_attn"));
  expect(fused?.slices).toEqual({ query: [0, 32], key: [32, 64], value: [64, 96] });
});

test("a tied head says what it is tied to, a quantised weight its codes", async () => {
  const lm = modulesOf(probeOutputs(await loadModel("assets/default-model")));
  expect(find(lm, "lm_head")).toMatchObject({ tiedTo: "model.embed_tokens", parameters: 0, kind: "head" });
  const q4 = await treeOf("adaptable/bert_q4.onnx");
  expect(find(q4, "bert.encoder.layer.0.attention.self.query").codes).toBe("uint8");
});
