import { existsSync, readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { batchNormMode, input, makeGraph, ops, rewriteValues, type Value } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import { maxAbsDiff, openSafetensors, readTensor, type Tensor } from "../tensor/index.js";
import { loadModel } from "./load.js";
import { axesOf, filled, runModel, tensorInputs } from "./probe.js";
import { resultsOf } from "./rewrite.js";
import type { TensorModel } from "./types.js";

const FIXTURES = new URL("../../fixtures/vision/", import.meta.url).pathname;
const names = readdirSync(FIXTURES);

const load = async (name: string, options: Parameters<typeof loadModel>[1] = {}) => {
  const state = `${FIXTURES}${name}/state.pth`;
  const path = existsSync(state) ? state : `${FIXTURES}${name}`;
  return (await loadModel(path, { ...options, task: "auto" })) as TensorModel;
};

/** Tensors of the file whose names begin with `prefix`, without it. */
async function section(name: string, prefix: string): Promise<Record<string, Tensor>> {
  const file = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
  const result: Record<string, Tensor> = {};
  for (const key of file.entries.keys())
    if (key.startsWith(prefix)) result[key.slice(prefix.length)] = await file.read(key);
  await file.close();
  return result;
}

const largest = (t: Tensor) => Math.max(...Array.from(t.data as Float32Array, Math.abs));
const closeTo = (actual: Tensor | undefined, expected: Tensor, what: string, scale = largest(expected)) => {
  expect(actual?.shape, what).toEqual(expected.shape);
  expect(maxAbsDiff(actual as Tensor, expected) / Math.max(scale, 1e-6), what).toBeLessThan(1e-4);
};

/** The sum over outputs of mean((out - target)²), and its gradient by every weight that has an expected one. */
async function lossAndGradients(model: TensorModel, name: string) {
  const given = await section(name, "in.");
  const targets = await section(name, "target.");
  const axes = axesOf(model, given);
  const inputs = tensorInputs(model, axes);
  const frozen = [...model.weights.values()].filter(({ dtype }) => dtype === "float32");
  const trained = frozen.map((value) => input(String(value.name), "float32", value.shape));
  const replace = new Map(frozen.map((value, at) => [value, trained[at] as Value] as const));
  const results = resultsOf(model.build(inputs));
  const get = rewriteValues(Object.values(results), { replace });
  const wanted = Object.entries(targets).map(([key, { shape }]) => {
    const target = input(`target.${key}`, "float32", shape);
    return { target, gap: ops.square(ops.sub(get(results[key] as Value), target)) };
  });
  const loss = wanted.map(({ gap }) => ops.reduceMean(gap, undefined, false)).reduce((a, b) => ops.add(a, b));
  const grads = gradients(loss, trained);
  const feeds: Record<string, Tensor> = {};
  for (const spec of model.inputs) feeds[spec.name] = given[spec.name] ?? filled(model, spec, axes);
  for (const { target } of wanted)
    feeds[String(target.name)] = targets[String(target.name).slice(7)] as Tensor;
  for (const [at, value] of frozen.entries())
    if (value.source.kind === "constant")
      feeds[String(trained[at]?.name)] = await readTensor(value.source.data);
  const outputs: [string, Value][] = [["loss", loss]];
  grads.forEach((grad, at) => {
    outputs.push([`grad.${trained[at]?.name}`, grad]);
  });
  const graph = makeGraph(
    name,
    [...Object.values(inputs.values), ...wanted.map(({ target }) => target), ...trained],
    outputs,
  );
  return evaluate(graph, feeds);
}

describe.each(names)("%s", (name) => {
  test("outputs equal the reference's", async () => {
    const model = await load(name);
    const outputs = await runModel(model, await section(name, "in."));
    const expected = await section(name, "out.");
    for (const [key, value] of Object.entries(expected)) closeTo(outputs[key], value, key);
    expect(Object.keys(expected).length).toBeGreaterThan(0);
  });

  test("loss and every gradient equal the reference's", async () => {
    const results = await lossAndGradients(await load(name), name);
    const [loss] = Object.values(await section(name, "loss"));
    closeTo(results.loss, { ...(loss as Tensor), shape: [] }, "loss");
    const expected = Object.entries(await section(name, "grad."));
    expect(expected.length).toBeGreaterThan(10);
    const typical = Math.max(...expected.map(([, value]) => largest(value)));
    // What cancels (a key's bias, a shift before a norm) is rounding of terms as large as the others.
    for (const [key, value] of expected)
      closeTo(results[`grad.${key}`], value, key, Math.max(largest(value), typical * 0.01));
  });

  test("blocks start at its boundaries, one after the other", async () => {
    const model = await load(name);
    const { boundaries } = model.build(tensorInputs(model));
    const ids = boundaries.map(({ id }) => id);
    expect([...ids].sort((a, b) => a - b)).toEqual(ids);
  });
});

test.each(["vit", "tinytimemixer", "tinytimemixer-mixed"])(
  "%s: other images, missing values",
  async (name) => {
    const options = name === "vit" ? { config: { interpolate_pos_encoding: [24, 20] as const } } : {};
    const outputs = await runModel(await load(name, options), await section(name, "other.in."));
    for (const [key, value] of Object.entries(await section(name, "other.out.")))
      closeTo(outputs[key], value, key);
  },
);

test("batch normalisation by the batch, running means after it", async () => {
  const model = await load("cifar-resnet");
  const given = await section("cifar-resnet", "in.");
  const inputs = tensorInputs(model, axesOf(model, given));
  const evaluation = makeGraph(
    "network",
    Object.values(inputs.values),
    Object.entries(resultsOf(model.build(inputs))),
  );
  const { graph, statistics } = batchNormMode(evaluation, "train");
  const results = await evaluate(graph, given);
  const { logits, ...means } = await section("cifar-resnet", "train.");
  closeTo(results.logits, logits as Tensor, "logits");
  expect(statistics.length).toBe(Object.keys(means).length);
  for (const { mean, nextMean } of statistics) {
    const name = String(mean.name);
    closeTo(results[nextMean], means[name] as Tensor, name);
  }
});

test("one tower of CLIP by itself", async () => {
  const given = await section("clip", "in.");
  const text = await runModel(await load("clip", { part: "text" }), {
    input_ids: given.input_ids as Tensor,
    attention_mask: given.attention_mask as Tensor,
  });
  const vision = await load("clip", { part: "vision" });
  const image = await runModel(vision, { pixel_values: given.pixel_values as Tensor });
  expect(vision.architecture).toBe("clip_vision_model");
  const expected = await section("clip", "out.");
  closeTo(normalised(text.text_embeds as Tensor), expected.text_embeds as Tensor, "text");
  closeTo(normalised(image.image_embeds as Tensor), expected.image_embeds as Tensor, "image");
  await expect(load("clip", { part: "audio" })).rejects.toThrow(/no part 'audio'/);
});

function normalised({ dtype, shape, data }: Tensor): Tensor {
  const [rows, width] = shape as [number, number];
  const out = Float32Array.from(data as Float32Array);
  for (let row = 0; row < rows; row++) {
    const part = out.subarray(row * width, (row + 1) * width);
    const length = Math.hypot(...part);
    part.forEach((value, at) => {
      part[at] = value / length;
    });
  }
  return { dtype, shape, data: out } as Tensor;
}
