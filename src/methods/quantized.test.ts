import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { vjp } from "../autodiff/index.js";
import { packExamples } from "../data/index.js";
import { makeGraph, ops, type Value } from "../graph/index.js";
import {
  type CausalLm,
  exportOnnx,
  frozenTensor,
  inputsOf,
  loadFolder,
  loadOnnxLm,
  parameterFeeds,
  probe,
  probeOutputs,
  type QuantizeModelOptions,
  quantizeModel,
  saveModel,
  sitesOf,
} from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import { maxAbsDiff, type Tensor, toFloat32 } from "../tensor/index.js";
import { nextToken } from "../training/index.js";
import {
  type AdaptedLm,
  adapt,
  calibrate,
  formatReceipt,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
} from "./index.js";
import { baseModel, probeLogits, randomise, relativeDifference } from "./testing/fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-quantized-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const KINDS: Readonly<Record<string, QuantizeModelOptions>> = {
  int8: { kind: "int8" },
  int4: { kind: "int4", blockSize: 16 },
  "int4 with zero points": { kind: "int4", blockSize: 16, symmetric: false },
  nf4: { kind: "nf4", blockSize: 16, doubleQuant: false },
  "nf4 with scales in 8 bits": { kind: "nf4", blockSize: 16 },
  "nf of 3 bits": { kind: "nf", bits: 3, blockSize: 16, scaleBits: 4, superBlock: 8, scaleDtype: "bfloat16" },
};
const NAMES = Object.keys(KINDS);
const quantized = async (name: string, kind: string): Promise<CausalLm> =>
  quantizeModel(await baseModel(name), KINDS[kind] as QuantizeModelOptions);
const tuned = async (base: CausalLm, std = 0.2): Promise<AdaptedLm> =>
  randomise(await adapt(base, lora({ rank: 4, targets: "all-linear" })), 1, std);

test.each(NAMES)(
  "%s: logits and gradients of an adapter are those on the dequantised floats",
  async (kind) => {
    const small = await tuned(await quantized("gpt2", kind));
    const plain = await merge(small, { quantized: "dequantize" });
    expect(relativeDifference(await probeLogits(plain), await probeLogits(small))).toBeLessThan(1e-5);
    // The same adapter over plain floats: those of the quantised base, with nothing added.
    const floats = await merge(
      await adapt(await quantized("gpt2", kind), lora({ rank: 4, targets: "all-linear" })),
      {
        quantized: "dequantize",
        allowNoEffect: true,
      },
    );
    expect(sitesOf(probeOutputs(floats)).every(({ stored }) => stored === undefined)).toBe(true);
    const reference = randomise(await adapt(floats, lora({ rank: 4, targets: "all-linear" })));
    const [ours, theirs] = [await gradientsOf(small), await gradientsOf(reference)];
    expect(Object.keys(ours).length).toBeGreaterThan(8);
    for (const [name, gradient] of Object.entries(ours))
      expect(relativeDifference(gradient, theirs[name] as Tensor), name).toBeLessThan(1e-4);
  },
);

async function gradientsOf(model: AdaptedLm): Promise<Record<string, Tensor>> {
  const { inputs, feeds } = probe(model, 6);
  const { logits } = model.build(inputs as Parameters<typeof model.build>[0]);
  const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
  const loss = ops.reduceMean(ops.square(logits), undefined, false);
  const found = vjp(
    [{ output: loss, gradient: ops.scalar(1) }],
    trained.map(({ value }) => value),
  ) as Value[];
  const graph = makeGraph(
    "gradients",
    inputsOf(found),
    found.map((value, at) => [`d ${trained[at]?.name}`, value] as const),
  );
  const read = Object.entries(feeds).filter(([name]) => graph.inputs.some((value) => value.name === name));
  return evaluate(graph, { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) });
}

test("a merge into quantised weights wants to be told how", async () => {
  const model = await tuned(await quantized("llama", "int4"));
  await expect(merge(model)).rejects.toMatchObject({ code: "quantized-base" });
  await expect(merge(model)).rejects.toThrow(/quantised .*int4, blocks of 16/);
});

test.each(["int8", "nf4"])("%s: keep fixes the adapter beside the weights, exactly", async (kind) => {
  const model = await tuned(await quantized("llama", kind));
  const kept = await merge(model, { quantized: "keep" });
  expect(kept.parameters.size).toBe(0);
  const before = await probeLogits(model);
  expect(relativeDifference(await probeLogits(kept), before)).toBeLessThan(1e-6);
  expect(kept.receipt.quantized).toMatchObject({ mode: "keep", sites: [] });
  for (const { trainable, tensor } of model.parameters.values())
    if (trainable) (tensor.data as Float32Array).fill(0);
  expect(maxAbsDiff(await probeLogits(kept), before), "later training must not reach it").toBeLessThan(1e-4);
  const { path } = await exportOnnx(kept, join(folder, `kept-${kind}`));
  expect(relativeDifference(await probeLogits(await loadOnnxLm(path)), before)).toBeLessThan(1e-5);
});

test("dequantize gives a folder of floats in the layout of the original", async () => {
  const model = await tuned(await quantized("gpt2", "int4"));
  const merged = await merge(model, { quantized: "dequantize" });
  expect(merged.quantization).toBeUndefined();
  const original = model.quantization?.base.weights;
  for (const [name, value] of original ?? [])
    expect(merged.weights.get(name)?.shape, name).toEqual(value.shape);
  const written = join(folder, "floats");
  await saveModel(merged, written);
  expect(
    relativeDifference(await probeLogits(await loadFolder(written)), await probeLogits(model)),
  ).toBeLessThan(1e-5);
});

test.each(NAMES)("%s: requantize rounds again and reports the loss", async (kind) => {
  const model = await tuned(await quantized("gpt2", kind), 0.3);
  const merged = await merge(model, { quantized: "requantize" });
  const { quantized: report, sitesChanged } = merged.receipt;
  expect(report?.sites.length).toBeGreaterThan(4);
  expect(sitesChanged).toBe(report?.sites.length);
  for (const site of report?.sites ?? []) {
    expect(site.relativeError, site.path).toBeLessThan(kind === "int8" ? 0.02 : 0.3);
    expect(site.survived, site.path).toBeGreaterThan(0.8);
  }
  const [exact, rounded] = [await probeLogits(model), await probeLogits(merged)];
  expect(relativeDifference(rounded, exact)).toBeGreaterThan(0);
  // The rounded model is nearer to the tuned one than the base is.
  const base = relativeDifference(await probeLogits(model.base), exact);
  expect(report?.logitError ?? 1).toBeLessThan(base);
  const stored = sitesOf(probeOutputs(merged)).filter((site) => site.stored);
  expect(stored.length).toBe(model.quantization?.sites.size);
  expect(formatReceipt(merged.receipt)).toMatch(/quantised .*rounded again; logits off by/);
});

test("a change below half a step everywhere is an error, and is named where it is below it at some modules", async () => {
  const base = await quantized("llama", "int4");
  const faint = await tuned(base, 1e-4);
  await expect(merge(faint, { quantized: "requantize" })).rejects.toMatchObject({
    code: "adapter-no-effect",
    message: expect.stringContaining("rounding the merged weights again"),
  });
  const model = await tuned(base, 0.3);
  for (const { name, trainable, tensor } of model.parameters.values())
    if (trainable && name.includes("layers.0"))
      for (let at = 0; at < tensor.data.length; at++) (tensor.data as Float32Array)[at] = 1e-5;
  const { receipt } = await merge(model, { quantized: "requantize" });
  expect(
    receipt.quantized?.sites
      .filter(({ unchanged }) => unchanged)
      .every(({ path }) => path.includes("layers.0")),
  ).toBe(true);
  expect(receipt.sitesChanged).toBeLessThan(receipt.sitesMatched);
  expect(receipt.warnings.join()).toMatch(/below half a step and left no trace \(model\.layers\.0/);
});

test("covariances of data put rounding errors where they matter least", async () => {
  const base = await quantized("gpt2", "int4");
  const model = await tuned(base, 0.3);
  const examples = Array.from({ length: 24 }, (_, row) => ({
    ids: Int32Array.from({ length: 16 }, (_, at) => (row * 31 + at * at * 7 + 3) % base.sizes.vocabSize),
    lossMask: new Uint8Array(16).fill(1),
  }));
  const packs = packExamples(examples, { length: 16, strategy: "none" });
  const objective = nextToken(model, { train: packs, batchSize: 8, lengths: [16], padId: 0 } as never);
  const calibration = await calibrate(objective, { statistics: ["covariance"], batches: 3 });
  const [plain, aware] = [
    await merge(model, { quantized: "requantize" }),
    await merge(model, { quantized: "requantize", calibration }),
  ];
  const outputError = async (merged: CausalLm) => {
    let [error, size] = [0, 0];
    const sites = new Map(sitesOf(probeOutputs(merged)).map((site) => [site.path, site]));
    const exact = await merge(model, { quantized: "dequantize" });
    for (const site of sitesOf(probeOutputs(exact))) {
      const c = site.kind === "linear" ? await calibration.statistic(site.path, "covariance") : undefined;
      const other = sites.get(site.path);
      if (!c || !other?.stored) continue;
      const n = site.inFeatures;
      const w = turned(toFloat32(await frozenTensor(site.weight)), site.orientation, site.outFeatures, n);
      const q = toFloat32(await frozenTensor(other.weight));
      for (let row = 0; row < site.outFeatures; row++)
        for (let i = 0; i < n; i++)
          for (let j = 0; j < n; j++) {
            const d = (at: number) => (w[row * n + at] as number) - (q[row * n + at] as number);
            error += d(i) * d(j) * (c[i * n + j] as number);
            size += (w[row * n + i] as number) * (w[row * n + j] as number) * (c[i * n + j] as number);
          }
    }
    return Math.sqrt(error / size);
  };
  const [without, withData] = [await outputError(plain), await outputError(aware)];
  expect(withData).toBeLessThan(0.8 * without);
});

function turned(data: Float32Array, orientation: string, rows: number, columns: number): Float32Array {
  if (orientation === "out-in") return data;
  return Float32Array.from(data, (_, at) => data[(at % columns) * rows + Math.floor(at / columns)] as number);
}

test("an adapter trained on a quantised base belongs to the base of floats", async () => {
  const [base, small] = [await baseModel("llama"), await quantized("llama", "nf4")];
  const path = join(folder, "adapter");
  await saveAdapter(await tuned(small), path);
  const same = await loadAdapter(small, path);
  expect(same.receipt.warnings).toEqual([]);
  const onFloats = await loadAdapter(base, path);
  expect(onFloats.receipt.warnings.join()).toMatch(
    /trained on the base quantised as .*nf4.*; this one is of floats/,
  );
  expect(onFloats.receipt.baseFingerprint).toBe(same.receipt.baseFingerprint);
  const other = await loadAdapter(await quantized("llama", "int8"), path);
  expect(other.receipt.warnings.join()).toMatch(/this one is quantised \(int8\)/);
  await expect(loadAdapter(await quantized("smollm", "int8"), path)).rejects.toThrow();
});

test("loftq starts nearer to the model of floats; its adapter is saved as a plain one", async () => {
  const [base, small] = [await baseModel("gpt2"), await quantized("gpt2", "int4")];
  const floats = await probeLogits(base);
  const model = await adapt(small, lora({ rank: 8, alpha: 16, targets: "all-linear", init: "loftq" }));
  const [plain, started] = [await probeLogits(small), await probeLogits(model)];
  expect(relativeDifference(started, floats)).toBeLessThan(0.8 * relativeDifference(plain, floats));
  await saveAdapter(model, join(folder, "loftq"));
  const again = await loadAdapter(small, join(folder, "loftq"));
  expect(maxAbsDiff(await probeLogits(again), started)).toBeLessThan(1e-6);
  await expect(adapt(base, lora({ init: "loftq" }))).rejects.toThrow(/not on a model that was quantised/);
});
