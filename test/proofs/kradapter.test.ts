import { expect, test } from "vitest";
import { kradapterProof } from "../../proofs/kradapter.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type KradapterConfig, kradapterMethod, type Method } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(kradapterProof())).toEqual([]);
}, 120_000);

const { weight, tensors } = kradapterMethod;
const mutants: Readonly<Record<string, [Method<KradapterConfig>, RegExp]>> = {
  "factors that all rows share": [
    {
      ...kradapterMethod,
      weight(w, values, site, config) {
        const { kr_u: u, kr_v: v } = values;
        if (!u || !v) throw new Error("no factors");
        const first = ops.expand(ops.slice(u, 0, 0, 1), u.shape);
        const rows = ops.mul(first, ops.slice(u, 1, 0, 1));
        return weight(w, { kr_u: rows, kr_v: ops.expand(ops.slice(v, 0, 0, 1), v.shape) }, site, config);
      },
    },
    /rank of the update/,
  ],
  "factors in the other order": [
    {
      ...kradapterMethod,
      weight(w, { kr_u: u, kr_v: v }, site, config) {
        if (!u || !v) throw new Error("no factors");
        return weight(w, { kr_u: v, kr_v: u }, site, config);
      },
    },
    /formula/,
  ],
  "a wasteful width": [
    {
      ...kradapterMethod,
      tensors: (site, config) =>
        tensors({ ...site, inFeatures: 2 * Math.max(site.inFeatures, site.outFeatures) }, config),
      weight: (w) => w,
    },
    /width|formula/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(kradapterProof({ method, steps: 0 }))).join("\n")).toMatch(expected);
  },
  60_000,
);
