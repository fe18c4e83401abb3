import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { makeGraph, ops } from "../../graph/index.js";
import { type Adapted, adapt, lora, merge } from "../../methods/index.js";
import { evaluate } from "../../runtime/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../../tensor/index.js";
import { inputsOf, parameterFeeds } from "../feeds.js";
import { probe, probeOutputs, runModel } from "../probe.js";
import { mainResult } from "../rewrite.js";
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

const load = (name: string) => loadOnnxModel(`${FOLDER}${name}.onnx`);

/** How far results may be from ONNX Runtime's on the file: half precision and codes round differently in other kernels. */
const tolerance = (name: string) => (/fp16|dynamic/.test(name) ? 0.03 : /qdq|q4/.test(name) ? 0.02 : 1e-4);

function feedsOf(model: TensorModel, name: string): Record<string, Tensor> {
  return Object.fromEntries(
    model.inputs.map((spec) => {
      const { shape, data } = (expected[name]?.feeds[spec.name] ?? { shape: [], data: [] }) satisfies Numbers;
      return [spec.name, tensor(spec.dtype, shape, [...data])];
    }),
  );
}

const adaptedEverywhere = async (model: TensorModel): Promise<Adapted<TensorModel>> => {
  const targets = sitesOf(probeOutputs(model)).flatMap(({ kind, path }) =>
    kind === "embedding" ? [] : [path],
  );
  return adapt(model, lora({ rank: 2, init: "gaussian", targets }));
};

async function gradientNorms(model: TensorModel): Promise<number[]> {
  const { inputs, feeds } = probe(model);
  const output = mainResult(
    model.build({ values: (inputs as { values: object }).values as never, training: true }),
  );
  const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
  const loss = ops.reduceSum(ops.mul(output, output), undefined, false);
  const found = gradients(
    loss,
    trained.map(({ value }) => value),
  );
  const norms = found.map((value, at): [string, typeof loss] => [
    String(at),
    value ? ops.reduceL2(value, undefined, false) : ops.scalar(0),
  ]);
  const graph = makeGraph("step", inputsOf(norms.map(([, value]) => value)), norms);
  const read = Object.entries(feeds).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const results = await evaluate(graph, {
    ...Object.fromEntries(read),
    ...parameterFeeds(graph, model.parameters),
  });
  return Object.values(results).map(({ data }) => Number(data[0]));
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
    for (const { name: of, tensor: values } of adapted.parameters.values())
      if (of.endsWith("lora_B")) (values.data as Float32Array).fill(0.02);
    const norms = await gradientNorms(adapted);
    expect(norms.length).toBeGreaterThan(1);
    for (const norm of norms) expect(norm).toBeGreaterThan(0);
    if (name.endsWith("_dynamic")) {
      await expect(merge(adapted)).rejects.toThrow(/computed in integers/);
      return;
    }
    const merged = await merge(adapted);
    expect(merged.parameters.size).toBe(0);
    const feeds = feedsOf(model, name);
    const [plain, apart, joined] = (await Promise.all(
      [model, adapted, merged].map(
        async (each) => (await runModel(each, feeds))[expected[name]?.output ?? ""],
      ),
    )) as [Tensor, Tensor, Tensor];
    expect(maxAbsDiff(plain, apart)).toBeGreaterThan(1e-5);
    expect(maxAbsDiff(joined, apart)).toBeLessThan(1e-4);
  });
});
