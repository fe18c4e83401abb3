import { expect, test } from "vitest";
import { failing } from "../../proofs/proof.js";
import { pveraProof } from "../../proofs/pvera.js";
import { ops } from "../../src/graph/index.js";
import { type Method, type PveraConfig, pveraMethod } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(pveraProof())).toEqual([]);
}, 60_000);

const { forward } = pveraMethod;
const mutants: Readonly<Record<string, [Method<PveraConfig>, RegExp]>> = {
  "a variance taken for a deviation": [
    {
      ...pveraMethod,
      forward: (call, config) =>
        forward({ ...call, noise: (like, kind) => ops.mul(call.noise(like, kind), 2) }, config),
    },
    /variance/,
  ],
  "no prior": [
    { ...pveraMethod, forward: (call, config) => forward({ ...call, addLoss: () => {} }, config) },
    /divergence/,
  ],
  "noise that is never drawn": [
    {
      ...pveraMethod,
      forward: (call, config) => forward({ ...call, noise: (like) => ops.mul(like, 0) }, config),
    },
    /variance/,
  ],
  "a merge without the scale": [
    {
      ...pveraMethod,
      weight: (w, values, site, config) => pveraMethod.weight(w, values, site, { ...config, alpha: 1 }),
    },
    /merged weight/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(pveraProof({ method }))).join("\n")).toMatch(expected);
  },
  60_000,
);
