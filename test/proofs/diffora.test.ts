import { expect, test } from "vitest";
import { type DifforaProofOptions, difforaProof } from "../../proofs/diffora.js";
import { failing } from "../../proofs/proof.js";
import { searchModules } from "../../src/methods/index.js";

const failures = (options: DifforaProofOptions) =>
  failing(difforaProof({ seeds: [1], budget: false, ...options }));

test("the proof holds", async () => {
  expect(await failures({})).toEqual([]);
}, 120_000);

const mutants: Readonly<Record<string, [typeof searchModules, readonly number[], RegExp]>> = {
  "gates that see what the updates learn from": [
    (base, adaptation, options) =>
      searchModules(base, adaptation, { ...options, objective: (own) => options.objective(own, "updates") }),
    [1],
    /largest gate of the others/,
  ],
  "the last modules, whatever their gates": [
    async (base, adaptation, options) => {
      const found = await searchModules(base, adaptation, options);
      const all = found.table.layers.flatMap((layer) => found.table.kinds.map((kind) => `${layer}.${kind}`));
      return { ...found, table: { ...found.table, selected: all.slice(-4) } };
    },
    [1],
    /planted modules among/,
  ],
  "no second order": [
    (base, { method, config }, options) =>
      searchModules(base, { method, config: { ...config, order: 1 } }, options),
    [],
    /second order against differences/,
  ],
  "an unrolled step upwards": [
    (base, adaptation, options) =>
      searchModules(base, adaptation, {
        ...options,
        ...(options.unrolled === undefined ? {} : { unrolled: -options.unrolled }),
      }),
    [],
    /second order against differences/,
  ],
  "one update of the others for all kinds, or none": [
    (base, { method, config }, options) =>
      searchModules(base, { method, config: { ...config, unselected: "none" } }, options),
    [],
    /update per kind/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [search, seeds, expected]) => {
    expect((await failures({ search, seeds, whole: seeds.length === 0 })).join("\n")).toMatch(expected);
  },
  120_000,
);
