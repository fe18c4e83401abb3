import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { adaptedEverywhere, lossAndGradients } from "../../../test/support/adapting.js";
import { loadOnnx, nodesOf } from "../../graph/index.js";
import { adapt, lora, merge } from "../../methods/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../../tensor/index.js";
import { exportOnnx } from "../index.js";
import { probeOutputs, runModel } from "../probe.js";
import { sitesOf } from "../sites.js";
import type { TensorModel } from "../types.js";
import { loadOnnxModel } from "./tensor-model.js";

const FOLDER = new URL("../../../fixtures/adaptable/", import.meta.url).pathname;
const names = readdirSync(FOLDER).flatMap((name) => (name.endsWith(".onnx") ? [name.slice(0, -5)] : []));
type Numbers = { readonly shape: readonly number[]; readonly data: readonly number[] };
const expected = JSON.parse(readFileSync(`${FOLDER}expected.json`, "utf8")) as Record<
  string,
  Numbers & { readonly feeds: Record<string, Numbers>; readonly output: string }
>;

/** Merging makes quantised weights floats. */
const FLOATS = { quantized: "dequantize" } as const;

const load = (name: string) => loadOnnxModel(`${FOLDER}${name}.onnx`);

/** How far results may be from ONNX Runtime's on the file: half precision and codes round differently in other kernels. */
const tolerance = (name: string) =>
  /fp16|dynamic/.test(name) ? 0.03 : /qdq|qlinear|q4/.test(name) ? 0.02 : 1e-4;

function feedsOf(model: TensorModel, name: string): Record<string, Tensor> {
  return Object.fromEntries(
    model.inputs.map((spec) => {
      const { shape, data } = (expected[name]?.feeds[spec.name] ?? { shape: [], data: [] }) satisfies Numbers;
      return [spec.name, tensor(spec.dtype, shape, [...data])];
    }),
  );
}

describe.each(names)("%s", (name) => {
  test("computes what ONNX Runtime computes of the file", async () => {
    const model = await load(name);
    const { output, shape, data } = expected[name] as (typeof expected)[string];
    const results = await runModel(model, feedsOf(model, name));
    const want = tensor("float32", shape, [...data]);
    expect(maxAbsDiff(results[output] as Tensor, want)).toBeLessThan(tolerance(name));
  });

  test("every module has a path of its own, stable over loads", async () => {
    const sites = sitesOf(probeOutputs(await load(name)));
    const weights = new Map(sites.map(({ path, weightName }) => [path, weightName]));
    for (const { path, weightName } of sites) {
      expect(path).toMatch(/^[\w.-]+$/);
      expect(weights.get(path)).toBe(weightName);
    }
    const again = sitesOf(probeOutputs(await load(name)));
    expect(again.map(({ path }) => path)).toEqual(sites.map(({ path }) => path));
    expect(sites.map(({ path, kind }) => `${kind} ${path}`)).toMatchSnapshot();
  });

  test("gradients reach an adapter on every map, and it merges into the same function", async () => {
    const model = await load(name);
    const adapted = await adaptedEverywhere(model);
    const { gradients } = await lossAndGradients(adapted);
    expect(gradients.size).toBeGreaterThan(1);
    for (const gradient of gradients.values()) expect(Math.hypot(...gradient)).toBeGreaterThan(0);
    if (name.endsWith("_dynamic")) {
      await expect(merge(adapted, FLOATS)).rejects.toThrow(/computed in integers/);
      return;
    }
    const merged = await merge(adapted, FLOATS);
    expect(merged.parameters.size).toBe(0);
    const feeds = feedsOf(model, name);
    const [plain, apart, joined] = (await Promise.all(
      [model, adapted, merged].map(
        async (each) => (await runModel(each, feeds))[expected[name]?.output ?? ""],
      ),
    )) as [Tensor, Tensor, Tensor];
    // ONNX Runtime has other kernels for a softmax of codes than for one of floats.
    const allowed = name === "convnet_qlinear" ? 4 / 256 : 1e-4;
    expect(maxAbsDiff(joined, apart)).toBeLessThan(allowed);
    expect(maxAbsDiff(plain, apart)).toBeGreaterThan(Math.min(2 * allowed, 1e-2));
  });

  test("written and read again it is the same, with the same inputs, outputs and modules", async () => {
    const model = await load(name);
    const adapted = await adaptedEverywhere(model);
    const written = name.endsWith("_dynamic") ? model : await merge(adapted, FLOATS);
    const folder = await mkdtemp(join(tmpdir(), "tunesmith-adaptable-"));
    const { path } = await exportOnnx(written, folder);
    const again = await loadOnnxModel(path);
    expect(again.inputs).toEqual(model.inputs);
    const feeds = feedsOf(model, name);
    const [before, after] = await Promise.all([written, again].map((each) => runModel(each, feeds)));
    expect(Object.keys(after ?? {})).toEqual(Object.keys(before ?? {}));
    const output = expected[name]?.output ?? "";
    expect(maxAbsDiff(after?.[output] as Tensor, before?.[output] as Tensor)).toBeLessThan(1e-5);
    const paths = (of: TensorModel) => sitesOf(probeOutputs(of)).map(({ path: at }) => at);
    expect(paths(again)).toEqual(paths(written));
    const file = await loadOnnx(path);
    const operators = new Set(nodesOf(file.graph).map(({ op }) => op));
    // What was one operator is one operator.
    if (name === "bert") expect(operators).toContain("LayerNormalization");
    if (name === "convnet_dynamic") expect(operators).toContain("ConvInteger");
    if (name === "bert_dynamic") expect(operators).toContain("MatMulInteger");
    await file.close();
  });
});

test("norms are trained whole under stable paths, and merge", async () => {
  const model = await load("anonymous");
  const adapted = await adapt(
    model,
    lora({ rank: 1, targets: ["features.0.linear"], modulesToSave: ["features.1.norm"], bias: "adapted" }),
  );
  const names = [...adapted.parameters.keys()];
  for (const name of ["features.1.norm.weight", "features.1.norm.bias", "features.0.linear.bias"])
    expect(names).toContain(`default/${name}`);
  for (const { name, tensor: values } of adapted.parameters.values())
    if (/norm|lora_B|bias/.test(name))
      (values.data as Float32Array).set(
        Float32Array.from({ length: values.data.length }, (_, at) => Math.sin(at + 1)),
      );
  const merged = await merge(adapted, FLOATS);
  const feeds = feedsOf(model, "anonymous");
  const [plain, apart, joined] = (await Promise.all(
    [model, adapted, merged].map(async (each) => (await runModel(each, feeds)).y),
  )) as [Tensor, Tensor, Tensor];
  expect(maxAbsDiff(plain, apart)).toBeGreaterThan(1e-3);
  expect(maxAbsDiff(joined, apart)).toBeLessThan(1e-5);
  // Names of the file are kept, so that what reads it by name still does.
  expect([...merged.weights.keys()].sort()).toEqual([...model.weights.keys()].sort());
});
