import { expect, test } from "vitest";
import { failing } from "../../proofs/proof.js";
import { uoraProof } from "../../proofs/uora.js";
import { type HookContext, type Method, type UoraConfig, uoraMethod } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(uoraProof({ seeds: [1] }))).toEqual([]);
}, 120_000);

const { hooks, tensors, ...rest } = uoraMethod;

/** Re-drawing that looks at other numbers than |d|. */
const looking = (context: HookContext<UoraConfig>, change: (value: number) => number) => ({
  ...hooks(context),
  afterUpdate(at: Parameters<NonNullable<ReturnType<typeof hooks>["afterUpdate"]>>[0]) {
    const all = context.sites.map(({ tensors: own }) => own.uora_d?.tensor.data as Float32Array);
    const before = all.map((d) => d.slice());
    for (const d of all) d.set(d.map(change));
    hooks(context).afterUpdate?.(at);
    for (const [index, d] of all.entries()) d.set(before[index] as Float32Array);
  },
});

const mutants: Readonly<Record<string, [Method<UoraConfig>, RegExp]>> = {
  "the rows that matter most": [
    { ...uoraMethod, hooks: (context) => looking(context, (value) => 1 / value) },
    /rows that matter/,
  ],
  "no re-drawing": [{ ...rest, tensors }, /rows that moved/],
  "projections that are not orthonormal": [
    {
      ...uoraMethod,
      tensors: (site, config) => {
        const specs = tensors(site, config);
        return {
          ...specs,
          uora_A: { ...specs.uora_A, init: ({ normal }) => normal(config.rank * site.inFeatures) },
        };
      },
    },
    /orthonormal/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(uoraProof({ method, seeds: [] }))).join("\n")).toMatch(expected);
  },
  60_000,
);
