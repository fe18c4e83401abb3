import { expect, test } from "vitest";
import { peanutProof } from "../../proofs/peanut.js";
import { failing } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type Method, type PeanutConfig, peanutMethod } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(peanutProof())).toEqual([]);
}, 60_000);

const { forward, weight } = peanutMethod;
/** The method with other options in its mathematics. */
const configured = (change: (config: PeanutConfig) => PeanutConfig): Method<PeanutConfig> => ({
  ...peanutMethod,
  forward: (call, config) => forward(call, change(config)),
  weight: (w, tensors, site, config) => weight(w, tensors, site, change(config)),
});

const mutants: Readonly<Record<string, [Method<PeanutConfig>, RegExp]>> = {
  "another activation": [configured((config) => ({ ...config, activation: "tanh" })), /plain arithmetic/],
  "no hidden layers": [configured((config) => ({ ...config, depth: 0 })), /two on either side/],
  "a scale over the rank": [
    configured((config) => ({ ...config, scale: config.scale / config.rank })),
    /plain arithmetic/,
  ],
  "a network of the weight's sizes alone": [
    {
      ...peanutMethod,
      forward: (call, config) => forward({ ...call, weight: () => ops.abs(call.weight()) }, config),
      weight: (w, tensors, site, config) =>
        ops.add(w, ops.sub(weight(ops.abs(w), tensors, site, config) as Value, ops.abs(w))),
    },
    /plain arithmetic/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(peanutProof({ method }))).join("\n")).toMatch(expected);
  },
  60_000,
);
