import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { maxAbsDiff, type Tensor } from "../../tensor/index.js";
import { loadModel } from "../load.js";
import { logitsOf, probe, probeIds, runModel } from "../probe.js";
import type { TensorModel } from "../types.js";
import { exportOnnx } from "./index.js";

const FIXTURES = new URL("../../../fixtures/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "tunesmith-round-trip-"));
afterAll(() => rmSync(folder, { recursive: true }));

const causal = readdirSync(`${FIXTURES}models`);
const others = ["text-models", "vision"].flatMap((kind) =>
  readdirSync(`${FIXTURES}${kind}`).map((name) => `${kind}/${name}`),
);
const pathOf = (name: string) =>
  existsSync(`${FIXTURES}${name}/state.pth`) ? `${FIXTURES}${name}/state.pth` : `${FIXTURES}${name}`;

test.each(causal)("%s: written as ONNX and read back, the same logits", async (name) => {
  const model = await loadModel(`${FIXTURES}models/${name}`);
  const ids = probeIds(model.sizes.vocabSize, 7);
  const expected = await logitsOf(model, ids);
  for (const cache of [false, true]) {
    const { path } = await exportOnnx(model, join(folder, `${name}-${cache}`), { cache });
    expect(maxAbsDiff(await logitsOf(await loadModel(path), ids), expected)).toBeLessThan(1e-4);
  }
});

const otherSizes = ({ probeAxes }: TensorModel) =>
  Object.fromEntries(
    Object.entries(probeAxes).flatMap(([axis, size]) =>
      axis === "batch" ? [[axis, 2]] : /length$/.test(axis) ? [[axis, size - 1]] : [],
    ),
  );

/** Outputs of a small pass, each relative to its largest number. */
const outputsOf = async (model: TensorModel, feeds: Readonly<Record<string, Tensor>>) =>
  Object.entries(await runModel(model, feeds));

test.each(others)("%s: written as ONNX and read back, the same outputs", async (name) => {
  const model = (await loadModel(pathOf(name), { task: "auto" })) as TensorModel;
  // Sizes that the export did not see.
  const wider: TensorModel = { ...model, probeAxes: { ...model.probeAxes, ...otherSizes(model) } };
  const { feeds } = probe(wider);
  const { path, notes } = await exportOnnx(model, join(folder, name.replace("/", "-")));
  expect(notes).toEqual([]);
  const again = (await loadModel(path, { task: model.task })) as TensorModel;
  expect(again.inputs.map((spec) => spec.name)).toEqual(model.inputs.map((spec) => spec.name));
  const got = new Map(await outputsOf(again, feeds));
  for (const [key, expected] of await outputsOf(model, feeds)) {
    const largest = (expected.data as Float32Array).reduce((most, x) => Math.max(most, Math.abs(x)), 1e-6);
    expect(maxAbsDiff(got.get(key) as Tensor, expected) / largest, key).toBeLessThan(1e-4);
  }
});
