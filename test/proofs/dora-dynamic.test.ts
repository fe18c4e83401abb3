import { expect, test } from "vitest";
import { dynamicDoraProof } from "../../proofs/dora-dynamic.js";
import { failing } from "../../proofs/proof.js";
import { type DynamicDoraConfig, dynamicDoraMethod, type Method } from "../../src/methods/index.js";

const run = (method: Method<DynamicDoraConfig>) => failing(dynamicDoraProof({ method, seeds: [1] }));

test("the proof holds", async () => {
  expect(await run(dynamicDoraMethod)).toEqual([]);
}, 120_000);

const { hooks, ...rest } = dynamicDoraMethod;
const mutants: Readonly<Record<string, [Method<DynamicDoraConfig>, RegExp]>> = {
  "no pruning": [rest, /none is needed|in all/],
  "pruning that ends before it has cut": [
    {
      ...dynamicDoraMethod,
      hooks: (context) =>
        hooks({ ...context, config: { ...context.config, pruneEvery: 10_000, pruneEnd: 0.85 } }),
    },
    /none is needed|in all/,
  ],
  "a scale by the target rank": [
    {
      ...dynamicDoraMethod,
      weight: (w, values, site, config) =>
        dynamicDoraMethod.weight(w, values, site, { ...config, startFactor: 1 }),
    },
    /formula/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await run(method)).join("\n")).toMatch(expected);
  },
  120_000,
);
