import { describe, expect, test } from "vitest";
import { checkGradients } from "../../autodiff/testing/finite-differences.js";
import { packExamples } from "../../data/index.js";
import { ops, type Value } from "../../graph/index.js";
import { type CausalLm, initModel } from "../../models/index.js";
import { createSession } from "../../runtime/index.js";
import { createStepper, nextToken, nextTokenBatches } from "../../training/index.js";
import { adapt } from "../adapt.js";
import { callMethod } from "../call-method.js";
import { lora } from "../lowrank/lora.js";
import type { SiteShape } from "../method.js";
import { talliesOf } from "../tallies.js";
import { randomise } from "../testing/fixtures.js";
import { type SmoreConfig, smore, smoreMethod } from "./smore.js";

type Options = Parameters<typeof smore>[0];

describe("gradients of outputs and balance loss, with noise where a gate has it", () => {
  const site: SiteShape = { path: "map", kind: "linear", inFeatures: 3, outFeatures: 2, hasBias: false };
  const [tokens, tiny] = [3, { experts: [3, 2], active: [2, 1], ranks: [1, 1], gateDim: 2, downDim: 2 }];
  /** Of noise, so that the reference's error function converges. */
  const CALM: [number, number] = [-0.3, 0.3];
  const cases: Readonly<Record<string, Options>> = {
    switch: {},
    noisy: { gate: "noisy" },
    dense: { gate: "dense", active: undefined },
    "slopes, on children": { activation: "prelu", activationAt: "child" },
    "one pool": { experts: [2, 2], sharedPool: true, activationAt: "child_v2" },
  };

  test.each(Object.entries(cases))("%s", async (_, options) => {
    const config: SmoreConfig = smore({ ...tiny, balance: 1, ...options }).config;
    const specs = Object.entries(smoreMethod.tensors(site, config));
    const noises = config.experts.map((experts, layer) => ({
      shape: [tokens, layer === 0 ? Number(config.active?.[1] ?? config.experts[1]) : 1, experts],
      differentiate: false,
      range: CALM,
    }));
    await checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), {
      operands: [
        { shape: [tokens, site.inFeatures] },
        ...noises,
        ...specs.map(([key, { shape }]) => (key.includes("noise") ? { shape, range: CALM } : { shape })),
      ],
      second: false,
      build(x, ...rest) {
        const losses: Value[] = [];
        const values = rest.slice(noises.length);
        const y = callMethod(smoreMethod, config, {
          site,
          tensors: Object.fromEntries(specs.map(([key], at) => [key, values[at] as Value])),
          x: x as Value,
          weight: ops.full([site.outFeatures, site.inFeatures], 0, "float64"),
          gate: ops.scalar(1, "float64"),
          training: true,
          noise: (_, __, layer) => rest[Number(layer)] as Value,
          addLoss: (term) => losses.push(term),
        });
        expect(losses).toHaveLength(config.gate === "dense" ? 0 : 2);
        return [y, ...losses];
      },
    });
  });
});

const base = initModel(
  {
    model_type: "llama",
    vocab_size: 64,
    hidden_size: 16,
    intermediate_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  },
  { seed: 2 },
);
const packs = packExamples(
  [0, 1].map((row) => ({
    ids: Int32Array.from({ length: 6 }, (_, at) => (7 * at + 11 * row + 1) % 60),
    lossMask: new Uint8Array(6).fill(1, 1),
  })),
  { length: 6, strategy: "none" },
);
const small: Options = { experts: [3, 4], active: [2, 2], ranks: [2, 2], gateDim: 4, downDim: 4, balance: 1 };

const objectiveOf = (model: CausalLm, length: number) =>
  nextToken(model, { batchSize: 2, lengths: [length], padId: 0, train: packs });

async function adapted(options: Options) {
  const { method, config } = smore({ targets: ["q_proj", "down_proj"], ...small, ...options });
  return randomise(await adapt(base, { method, config }), 1, 0.3);
}

async function gradientsOf(model: CausalLm, length: number) {
  const stepper = createStepper(objectiveOf(model, length), { session: { threads: 1 } });
  const [batch] = [...nextTokenBatches(packs, { batchSize: 2, lengths: [length], padId: 0 })];
  if (!batch) throw new Error("no batch");
  try {
    return await stepper.run(batch, batch.count, [1]);
  } finally {
    await stepper.close();
  }
}

test("padding changes neither the balance loss nor its gradients", async () => {
  const model = await adapted({});
  const [short, long] = [await gradientsOf(model, 6), await gradientsOf(model, 16)];
  expect(long.loss).toBeCloseTo(short.loss, 4);
  for (const [name, gradient] of short.gradients) {
    const other = long.gradients.get(name) as Float32Array;
    const largest = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const gap = gradient.reduce((most, value, at) => Math.max(most, Math.abs(value - Number(other[at]))), 0);
    expect(gap / largest, name).toBeLessThan(1e-3);
  }
  // The loss has more than the likelihood in it: 2 maps, 2 sub-layers, about 2 children each.
  const plain = await gradientsOf(await adapted({ balance: 0 }), 6);
  expect(short.loss - plain.loss).toBeGreaterThan(4);
});

test("counts where tokens go, without padding; another method has nothing to count", async () => {
  const model = await adapted({});
  const counts = await talliesOf(objectiveOf(model, 6), { batches: 2 });
  const padded = await talliesOf(objectiveOf(model, 16), { batches: 2 });
  expect([...counts.keys()].toSorted()).toEqual(
    ["mlp.down_proj", "self_attn.q_proj"].flatMap((path) =>
      ["chosen/0", "chosen/1", "scores/0", "scores/1"].map(
        (name) => `default/model.layers.0.${path}/${name}`,
      ),
    ),
  );
  const sum = (values: Float64Array | undefined) => values?.reduce((a, b) => a + b, 0);
  for (const [name, values] of counts) {
    expect(padded.get(name), name).toHaveLength(name.endsWith("0") ? 3 : 4);
    for (const [at, value] of values.entries()) expect(padded.get(name)?.[at]).toBeCloseTo(value, 4);
  }
  // Two batches of 12 tokens, of 2 routes at the root, and of 2 · 2 below it.
  const path = "default/model.layers.0.self_attn.q_proj";
  expect(sum(counts.get(`${path}/chosen/1`))).toBe(48);
  expect(sum(counts.get(`${path}/chosen/0`))).toBe(96);
  expect(sum(counts.get(`${path}/scores/1`))).toBeCloseTo(24, 4);
  const other = await adapt(base, lora({ rank: 1 }));
  await expect(talliesOf(objectiveOf(other, 6))).rejects.toMatchObject({ code: "config-invalid" });
});

test.each<[string, Options, RegExp]>([
  ["ranks of other sub-layers", { experts: [4, 4, 4] }, /ranks: 2 numbers for 3 sub-layers/],
  ["more children than experts", { active: [2, 5] }, /active: more than the 4 experts/],
  ["some children of a dense gate", { gate: "dense", active: [2, 2] }, /active: the dense gate takes all/],
  ["a pool of unequal experts", { sharedPool: true, ranks: [4, 8] }, /sharedPool: .*equal/],
  ["no experts", { experts: [] }, /experts/],
])("refuses %s", (_, options, message) => {
  expect(() => smore(options)).toThrow(message);
});
