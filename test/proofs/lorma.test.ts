import { expect, test } from "vitest";
import { lormaProof } from "../../proofs/lorma.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type LormaConfig, lormaMethod, type Method } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(lormaProof())).toEqual([]);
}, 120_000);

const { weight } = lormaMethod;
const mutants: Readonly<Record<string, [Method<LormaConfig>, RegExp]>> = {
  "a low-rank factor without inflation": [
    {
      ...lormaMethod,
      weight(w, values, site, config) {
        const { lorma_A: a, lorma_B: b } = values;
        if (!a || !b || config.variant === "plus" || config.side === "post")
          return weight(w, values, site, config);
        return ops.mul(ops.matmul(ops.matmul(b, a), w), config.alpha / config.rank);
      },
    },
    /rank of the factor/,
  ],
  "sides that are swapped": [
    {
      ...lormaMethod,
      weight: (w, values, site, config) =>
        site.inFeatures === site.outFeatures || config.side === "pre"
          ? weight(w, values, site, config)
          : ops.transpose(
              weight(
                ops.transpose(w, [1, 0]),
                values,
                { ...site, outFeatures: site.inFeatures },
                { ...config, side: "pre" },
              ),
              [1, 0],
            ),
    },
    /post/,
  ],
  "an update that adds": [
    {
      ...lormaMethod,
      weight: (w, values, site, config) => ops.add(weight(w, values, site, config), 0.1),
    },
    /maps to zero/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(lormaProof({ method, steps: 0 }))).join("\n")).toMatch(expected);
  },
  60_000,
);
