import { expect, test } from "vitest";
import { hydraProof } from "../../proofs/hydra.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type HydraConfig, hydraMethod, type Method } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(hydraProof())).toEqual([]);
}, 120_000);

const { forward, weight, biasDelta } = hydraMethod;
const mutants: Readonly<Record<string, [Method<HydraConfig>, RegExp]>> = {
  "a sequential branch that sees its own input": [
    { ...hydraMethod, forward: (call, config) => forward({ ...call, y: ops.mul(call.y, 2) }, config) },
    /forward pass/,
  ],
  "a bias that does not go through the sequential branch": [
    { ...hydraMethod, biasDelta: (values, site, config) => biasDelta(values, site, config, undefined) },
    /formula/,
  ],
  "branches that both add": [
    {
      ...hydraMethod,
      weight(w, values, site, config) {
        const { hydra_seq_A: a, hydra_seq_B: b } = values;
        const square = site.inFeatures === site.outFeatures;
        return a && b && square
          ? ops.gemm(b, a, w, { alpha: config.scale })
          : weight(w, values, site, config);
      },
    },
    /row space/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(hydraProof({ method, steps: 0 }))).join("\n")).toMatch(expected);
  },
  60_000,
);
