import { readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { type Graph, input, makeGraph, ops } from "../graph/index.js";
import { noiseOf, parameterFeeds } from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import { rng } from "../runtime/random/index.js";
import { openSafetensors, type Tensor, type TensorFile, tensor } from "../tensor/index.js";
import { nextToken, stepGraph } from "../training/index.js";
import type { Adapter } from "./adapter.js";
import { callMethod, loadAdapter, lora } from "./index.js";
import type { SiteShape } from "./method.js";
import { mappingOf } from "./peft/mappings.js";
import { PREFIX, peftNames } from "./peft/names.js";
import { baseModel, fixture, largestGap } from "./testing/fixtures.js";

const cases = readdirSync(fixture("peft"), { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() ? [entry.name] : [],
);

/** Mean next-token cross-entropy of a batch, as the fixtures' reference computes it. */
function batchFeeds(ids: BigInt64Array, batch: number, length: number) {
  const shape = [batch, length];
  const at = (index: number) => index % length;
  const last = (index: number) => at(index) === length - 1;
  const all = Array.from(ids, Number);
  return {
    batch_share: tensor("float32", [], [1]),
    ids: tensor("int32", shape, all),
    positions: tensor(
      "int32",
      shape,
      all.map((_, index) => at(index)),
    ),
    segments: tensor(
      "int32",
      shape,
      all.map(() => 1),
    ),
    labels: tensor(
      "int32",
      shape,
      all.map((_, index) => (last(index) ? -1 : Number(all[index + 1]))),
    ),
    weights: tensor(
      "float32",
      shape,
      all.map((_, index) => (last(index) ? 0 : 1 / (batch * (length - 1)))),
    ),
  };
}

const half = (shape: readonly number[]) =>
  tensor("float32", shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5));

/** Gradients of tensors that files hold in pieces, taken apart as the tensors are. */
function gradientPieces({ sites, adaptation }: Adapter, results: Readonly<Record<string, Tensor>>) {
  const mapping = mappingOf(adaptation.method);
  return [...sites.values()].flatMap((site) => {
    const joined = Object.entries(site.tensors).filter(
      ([key, { trainable }]) => trainable && mapping.suffix(key, site.shape) === undefined,
    );
    if (joined.length === 0) return [];
    const gradients = joined.map(
      ([key, own]) => [key, { ...own, tensor: results[`grad/${own.name}`] as Tensor }] as const,
    );
    const tensors = { ...site.tensors, ...Object.fromEntries(gradients) };
    const taken = mapping.rewritten?.({ ...site, tensors }, adaptation.config) ?? [];
    return taken.map(([suffix, found]) => [`${PREFIX}${site.shape.path}.${suffix}`, found] as const);
  });
}

/** What the reference drew, for the inputs `noise/ADAPTER/PATH/KEY` of a graph. */
async function drawn({ inputs }: Graph, expected: TensorFile) {
  const names = inputs.flatMap((value) => (noiseOf(value)?.kind === "normal" ? [String(value.name)] : []));
  return Promise.all(
    names.map(async (name) => {
      const [, , ...place] = name.split("/");
      return [name, await expected.read(`noise.${place.join(".")}`)] as const;
    }),
  );
}

/** What training samples, PVeRA's code and dropout in X-LoRA's classifier; the reference was run in evaluation mode. */
const SAMPLED = new Set(["llama-pvera", "llama-xlora-deep"]);
/** Arrow's experts. */
const UNTRAINED = new Set(["llama-arrow", "llama-arrow-general"]);

describe.each(cases.filter((name) => !SAMPLED.has(name) && !UNTRAINED.has(name)))("%s", (name) => {
  test("the gradients of every tensor in the file are PEFT's", async () => {
    const folder = fixture(`peft/${name}`);
    const expected = await openSafetensors(`${folder}/expected.safetensors`);
    const model = await loadAdapter(await baseModel(String(name.split("-")[0])), folder);
    const adapter = model.adapters.get("default");
    if (!adapter) throw new Error("no adapter");
    const { graph, trained } = stepGraph(nextToken(model, { batchSize: 2, lengths: [12], padId: 0 }), {
      batch: 2,
      length: 12,
    });
    const { data } = await expected.read("input_ids");
    const batch: Record<string, ReturnType<typeof tensor>> = batchFeeds(data as BigInt64Array, 2, 12);
    const read = graph.inputs.flatMap(({ name: key }) =>
      key && batch[key] ? [[key, batch[key]] as const] : [],
    );
    // What is sampled while training sits at its middle, where the reference's evaluation mode has it.
    const middle = graph.inputs.flatMap((value) =>
      noiseOf(value)?.kind === "uniform"
        ? [[String(value.name), half(value.shape as number[])] as const]
        : [],
    );
    const feeds = {
      ...Object.fromEntries([...read, ...middle, ...(await drawn(graph, expected))]),
      ...parameterFeeds(graph, model.parameters),
      loss_scale: tensor("float32", [], [1]),
    };
    const results = await evaluate(graph, feeds);

    const loss = Number((await expected.read("loss")).data[0]);
    expect(Number(results.loss?.data[0])).toBeCloseTo(loss, 4);
    const files = peftNames(adapter);
    const whole = trained.flatMap(({ name: own }) => {
      const file = files.get(own);
      return file ? [[file, results[`grad/${own}`]] as const] : [];
    });
    const compared = await Promise.all(
      [...whole, ...gradientPieces(adapter, results)].map(async ([file, found]) => {
        const key = `grad.${file}`;
        const want = (await expected.read(key)).data as Float32Array;
        const largest = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        expect(largestGap(found?.data as Float32Array, want) / largest, key).toBeLessThan(1e-4);
        return key;
      }),
    );
    const wanted = [...expected.entries.keys()].filter((key) => key.startsWith("grad."));
    expect(compared.toSorted()).toEqual(wanted.toSorted());
  });
});

describe("DoRA's gradient", () => {
  const [tokens, inF, outF, rank] = [3, 6, 5, 2];
  const numbers = (label: string, count: number) =>
    Float32Array.from(rng(4, label).fillNormal(new Float32Array(count), 0, 0.7));
  const parts = {
    w: numbers("w", outF * inF),
    x: numbers("x", tokens * inF),
    c: numbers("c", tokens * outF),
    a: numbers("a", rank * inF),
    b: numbers("b", outF * rank),
    m: numbers("m", outF).map((value) => 1 + Math.abs(value)),
  };
  type Parts = Record<keyof typeof parts, ArrayLike<number>>;
  const directions = ({ w, a, b }: Parts) =>
    Float64Array.from({ length: outF * inF }, (_, at) => {
      const [i, j] = [Math.floor(at / inF), at % inF];
      let sum = Number(w[at]);
      for (let k = 0; k < rank; k++) sum += 2 * Number(b[i * rank + k]) * Number(a[k * inF + j]);
      return sum;
    });
  const normsOf = (v: Float64Array) =>
    Array.from({ length: outF }, (_, i) => Math.hypot(...v.subarray(i * inF, (i + 1) * inF)));
  /** Σ c·y with y = x·((m/n)·V)ᵀ, s = 2; `norms` fixed for the detached form. */
  const loss = (at: Parts, norms?: readonly number[]) => {
    const v = directions(at);
    const n = norms ?? normsOf(v);
    let sum = 0;
    for (let t = 0; t < tokens; t++)
      for (let i = 0; i < outF; i++) {
        let y = 0;
        for (let j = 0; j < inF; j++) y += Number(v[i * inF + j]) * Number(at.x[t * inF + j]);
        sum += (Number(at.c[t * outF + i]) * Number(at.m[i]) * y) / Number(n[i]);
      }
    return sum;
  };
  const differences = (key: "a" | "b" | "m", fixed: boolean) => {
    const norms = fixed ? normsOf(directions(parts)) : undefined;
    return Array.from(parts[key], (_, index) => {
      const moved = (by: number) => {
        const changed = Float64Array.from(parts[key]);
        changed[index] = Number(changed[index]) + by;
        return loss({ ...parts, [key]: changed }, norms);
      };
      return (moved(1e-5) - moved(-1e-5)) / 2e-5;
    });
  };

  test("holds the norm constant, which the exact gradient does not", async () => {
    const { method, config } = lora({ rank, alpha: 2 * rank, dora: true });
    const site: SiteShape = {
      path: "map",
      kind: "linear",
      inFeatures: inF,
      outFeatures: outF,
      hasBias: false,
    };
    const shapes = {
      w: [outF, inF],
      x: [tokens, inF],
      c: [tokens, outF],
      a: [rank, inF],
      b: [outF, rank],
      m: [outF],
    };
    const entries = Object.entries(shapes).map(
      ([key, shape]) => [key, input(key, "float32", shape)] as const,
    );
    const value = Object.fromEntries(entries) as Record<keyof typeof shapes, ReturnType<typeof input>>;
    const y = callMethod(method, config, {
      site,
      tensors: { lora_A: value.a, lora_B: value.b, lora_magnitude_vector: value.m },
      x: value.x,
      weight: value.w,
    });
    const total = ops.reduceSum(ops.mul(y, value.c), undefined, false);
    const found = gradients(total, [value.a, value.b, value.m]);
    const outputs = ["a", "b", "m"].map((key, at) => [`d${key}`, found[at]] as [string, (typeof found)[0]]);
    const graph = makeGraph("dora", Object.values(value), outputs);
    const feeds = Object.fromEntries(
      entries.map(([key]) => [
        key,
        tensor("float32", shapes[key as keyof typeof shapes], parts[key as keyof typeof parts]),
      ]),
    );
    const results = await evaluate(graph, feeds);
    for (const key of ["a", "b", "m"] as const)
      expect(largestGap(results[`d${key}`]?.data as Float32Array, differences(key, true)), key).toBeLessThan(
        1e-4,
      );
    for (const key of ["a", "b"] as const)
      expect(
        largestGap(results[`d${key}`]?.data as Float32Array, differences(key, false)),
        key,
      ).toBeGreaterThan(0.1);
  });
});
