import { expect, test } from "vitest";
import { gloraProof } from "../../proofs/glora.js";
import { failing } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type GloraConfig, gloraMethod, type Method, searchForms } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(gloraProof())).toEqual([]);
}, 60_000);

const { weight, biasDelta } = gloraMethod;

const doubled = (values: Readonly<Record<string, Value>>) => {
  const down = values["glora_A.Xd"];
  return down ? { ...values, "glora_A.Xd": ops.mul(down, 2) } : values;
};

const mutants: Readonly<Record<string, [Method<GloraConfig>, RegExp]>> = {
  "A added instead of multiplied": [
    {
      ...gloraMethod,
      weight: (w, values, site, config) =>
        ops.add(w, weight(ops.full([site.outFeatures, site.inFeatures], 1, "float32"), values, site, config)),
    },
    /formula|start/,
  ],
  "no prompt": [
    {
      ...gloraMethod,
      biasDelta: (values, site, config, bias, w) =>
        biasDelta(values, site, config, bias, () => ops.mul(w(), 0) as Value),
    },
    /formula/,
  ],
  "lora, vector and constant with numbers of their own": [
    {
      ...gloraMethod,
      weight: (w, values, site, config) => weight(w, doubled(values), site, config),
    },
    /formula/,
  ],
};

test.each(Object.entries(mutants))("fails with %s", async (_, [method, expected]) => {
  expect((await failing(gloraProof({ method, steps: 0 }))).join("\n")).toMatch(expected);
});

test("fails with a search that takes the worst", async () => {
  const search: typeof searchForms = async (sites, config, options) => {
    const { loss } = options;
    const best = await searchForms(sites, config, { ...options, loss: async () => -(await loss()) });
    return { ...best, loss: -best.loss };
  };
  expect((await failing(gloraProof({ search, steps: 300 }))).join("\n")).toMatch(/search: loss of the best/);
}, 60_000);
