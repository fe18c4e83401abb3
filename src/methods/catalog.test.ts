import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { type CausalLm, probeIds } from "../models/index.js";
import { rng } from "../runtime/index.js";
import { maxAbsDiff, type Tensor } from "../tensor/index.js";
import { adamw, createStepper, nextToken, nextTokenBatches } from "../training/index.js";
import { adapt } from "./adapt.js";
import type { AdaptedLm } from "./adapted.js";
import { type Calibration, calibrate } from "./calibration.js";
import { siteMethods } from "./catalog.js";
import { loadAdapter, merge, saveAdapter, setActive, setScale } from "./index.js";
import type { Method, SiteConfig } from "./method.js";
import { probeLogits, randomise, relativeDifference, smallModel } from "./testing/fixtures.js";

/** Options that fit the small model, for methods whose defaults are for large ones. */
const OPTIONS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  pvera: { rank: 8 },
  vera: { rank: 8 },
  uora: { rank: 8 },
  "dora-dynamic": { rank: 2 },
  hydra: { branchBias: true },
  oft: { blockSize: 8 },
  psoft: { rank: 4 },
  goft: {},
  kadaptation: { summands: 4 },
  "orthogonal-adaptation": { rank: 4, conceptId: "cat" },
  hra: { rank: 4, regularizer: 0.01 },
  rosa: { rank: 2, density: 0.05 },
  boft: { blockSize: 4, factors: 2 },
  fourierft: { frequencies: 40 },
  waveft: { frequencies: 40 },
  "fine-gates": { rank: 2 },
  alphatuning: { planes: 2 },
  sketchtune: { bits: 2, groupsPerRow: 2, calibrated: true },
  shira: { rank: 2 },
  neuroada: { connections: 2 },
  hira: { rank: 4 },
  miss: { rank: 6 },
  gralora: { rank: 4, hybridRank: 1 },
  delora: { rank: 2 },
  c3a: { blockSize: 8 },
  mpo: { cores: 3 },
  road: { groupSize: 8 },
  elalora: { rank: 2, maxRank: 2 },
  smore: { experts: [3, 2], active: [2, 2], ranks: [2, 2], gateDim: 4, downDim: 4 },
  map: { options: { rank: 2 } },
  randlora: { rank: 3 },
  vblora: { rank: 2, vectors: 6, vectorLength: 8 },
  peanut: { rank: 4, depth: 1, activation: "gelu" },
  lily: { rank: 4, stride: 2 },
  poly: { rank: 2, tasks: 3, skills: 2, splits: 2, taskId: 1 },
  loha: { rank: 2 },
  "ln-tuning": { targets: ["input_layernorm", "norm"] },
  tinylora: { vectorLength: 6, weightTying: 0.5 },
  unilora: { rank: 2, thetaLength: 24 },
  supertuning: { sparsity: 0.9, rank: 2, dropout: 0.1 },
  bitfit: { targets: ["q_proj", "o_proj"] },
  lokr: { rank: 1 },
  diffora: { rank: 2, relax: "softmax" },
  osf: { keptRank: 12 },
  "deft-projection": { rank: 3, alpha: 6 },
  frod: { sparseRate: 0.05 },
  adamss: { rank: 6, subspaces: 3, subspaceRank: 2 },
  kasa: { rank: 2 },
  qalora: { rank: 2, groupSize: 4 },
  bdlora: { rank: 4 },
  alora: { rank: 2, invocation: [5] },
  velora: { rank: 2, groups: 5 },
  monteclora: { rank: 2, samples: 3 },
};

/** Methods that start near the base only, and how near. */
const NEAR: Readonly<Record<string, number>> = { vblora: 1e-3, unilora: 1e-3, kasa: 0.1 };

const PLAN = { batchSize: 2, lengths: [8], padId: 0 };
const examples = [0, 1].map((row) => ({
  ids: Int32Array.from(probeIds(40, 8), (id) => (id + row) % 40),
  lossMask: new Uint8Array(8).fill(1, 1),
}));
const packs = packExamples(examples, { length: 8, strategy: "none" });

const base = smallModel({ attention_bias: true });

for (const [name, { source }] of base.weights) {
  if (!name.endsWith(".bias") || source.kind !== "constant") continue;
  // They start as zeros, where a factor on them would have no gradient.
  rng(2, name).fillNormal((source.data as Tensor).data as Float32Array, 0, 0.002);
}

/** What methods that start from data are given. */
let known: Promise<Calibration> | undefined;
const calibration = () => {
  known ??= calibrate(nextToken(base, { ...PLAN, train: packs }), {
    statistics: ["covariance", "inputMean", "inputMeanAbs", "gradient", "gradientSquare"],
    batches: 2,
  });
  return known;
};

async function adapted(method: Method<SiteConfig>, name = "default", on: CausalLm = base) {
  const config = method.schema.parse({ targets: ["q_proj", "down_proj"], ...OPTIONS[method.name] });
  return adapt(on, { method, config }, { name, seed: 3, calibration: await calibration() });
}

/** Merged, the model gives these logits; or it is refused, where no weight can hold the update. */
async function mergesTo(
  { unmergeable, schema, name }: Method<SiteConfig>,
  model: AdaptedLm,
  expected: Awaited<ReturnType<typeof probeLogits>>,
) {
  if (unmergeable?.(schema.parse(OPTIONS[name] ?? {})))
    return expect(merge(model)).rejects.toMatchObject({ code: "not-mergeable" });
  expect(relativeDifference(await probeLogits(await merge(model)), expected)).toBeLessThan(1e-4);
}

async function gradientsOf(model: CausalLm) {
  const stepper = createStepper(nextToken(model, PLAN), { session: { threads: 1 } });
  const [batch] = [...nextTokenBatches(packs, PLAN)];
  if (!batch) throw new Error("no batch");
  try {
    return (await stepper.run(batch, batch.count, [1])).gradients;
  } finally {
    await stepper.close();
  }
}

describe.each(siteMethods.map((method) => [method.name, method] as const))("%s", (_, method) => {
  test("starts as the base, for every seed", async () => {
    const before = await probeLogits(base);
    const bound = NEAR[method.name] ?? 1e-5;
    expect(relativeDifference(await probeLogits(await adapted(method)), before)).toBeLessThan(bound);
  });

  test("every trained tensor is finite and gets a gradient once it has moved", async () => {
    const model = randomise(await adapted(method), 1, 0.05);
    const gradients = await gradientsOf(model);
    expect(gradients.size).toBeGreaterThan(0);
    const at = { step: 1, steps: 10, learningRate: 1, params: new Map() };
    const { isTrained } = model.trainingHooks?.() ?? {};
    for (const [name, gradient] of gradients) {
      if (isTrained?.(name, at) === false) continue;
      expect(gradient.every(Number.isFinite), name).toBe(true);
      expect(
        gradient.some((value) => value !== 0),
        name,
      ).toBe(true);
    }
  });

  test("merged, it computes what it computes apart; off, the base; half strength, something between", async () => {
    const model = randomise(await adapted(method), 1, 0.05);
    const apart = await probeLogits(model);
    const plain = await probeLogits(base);
    expect(relativeDifference(apart, plain)).toBeGreaterThan(1e-4);
    await mergesTo(method, model, apart);
    expect(maxAbsDiff(await probeLogits(setActive(model, [])), plain)).toBe(0);
    setScale(model, "default", 0.5);
    const half = await probeLogits(model);
    expect(relativeDifference(half, apart)).toBeGreaterThan(1e-6);
    await mergesTo(method, model, half);
  });

  test("saved and loaded, it is the same", async () => {
    const model = randomise(await adapted(method), 1, 0.05);
    const folder = mkdtempSync(join(tmpdir(), `tunesmith-${method.name}-`));
    await saveAdapter(model, folder);
    const loaded = await loadAdapter(base, folder);
    expect(relativeDifference(await probeLogits(loaded), await probeLogits(model))).toBeLessThan(1e-5);
  });

  test("beside an adapter of another method, each does its part", async () => {
    const other = siteMethods.find(({ name }) => name !== method.name);
    if (!other) throw new Error("only one method");
    const first = randomise(await adapted(method, "one"), 1, 0.05);
    const both = await adapted(other, "two", first);
    expect(relativeDifference(await probeLogits(both), await probeLogits(first))).toBeLessThan(1e-5);
    randomise(both, 2, 0.05);
    const stacked = await probeLogits(both);
    await mergesTo(method, both, stacked);
  });
});

test("an optimiser step over every method changes its parameters", async () => {
  for (const method of siteMethods) {
    const model = randomise(await adapted(method), 1, 0.05);
    const gradients = await gradientsOf(model);
    const params = new Map(
      [...gradients.keys()].map((name) => [name, model.parameters.get(name)?.tensor.data as Float32Array]),
    );
    const before = new Map([...params].map(([name, data]) => [name, data.slice()]));
    const optimizer = adamw({ lr: 1e-2 });
    optimizer.step(params, gradients, optimizer.init(params), { step: 1 });
    const at = { step: 1, steps: 10, learningRate: 1, params };
    const { isTrained } = model.trainingHooks?.() ?? {};
    for (const [name, data] of params)
      if (isTrained?.(name, at) !== false) expect(data, name).not.toEqual(before.get(name));
  }
});
