import { expect, test } from "vitest";
import { lolduProof } from "../../proofs/loldu.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type LolduConfig, lolduMethod, type Method } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(lolduProof())).toEqual([]);
}, 120_000);

const { weight, forward, tensors } = lolduMethod;
const mutants: Readonly<Record<string, [Method<LolduConfig>, RegExp]>> = {
  "a start that is added to the weight": [
    {
      ...lolduMethod,
      weight: (w, values, site, config) =>
        weight(
          w,
          values.loldu_start ? { ...values, loldu_start: ops.mul(values.loldu_start, 0) } : values,
          site,
          config,
        ),
    },
    /start|formula/,
  ],
  "a scale that is forgotten in the forward pass": [
    { ...lolduMethod, forward: (call, config) => forward(call, { ...config, scale: 1 }) },
    /scale 3: forward/,
  ],
  "pivots that are not the weight's": [
    {
      ...lolduMethod,
      tensors: (site, config) => {
        const specs = tensors(site, config);
        const { loldu_U: upper } = specs;
        if (!upper) throw new Error("no U");
        return {
          ...specs,
          loldu_U: {
            ...upper,
            init: async (context) =>
              Float32Array.from((await upper.init(context)) as Float32Array, (value) => 2 * value),
          },
        };
      },
    },
    /P L D U|diagonal/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(lolduProof({ method, steps: 0 }))).join("\n")).toMatch(expected);
  },
  60_000,
);
