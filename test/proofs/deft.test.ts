import { expect, test } from "vitest";
import { type DeftProofOptions, deftProof } from "../../proofs/deft.js";
import { holds } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { deft } from "../../src/methods/index.js";

const failures = async (options: DeftProofOptions) => {
  const checks = await deftProof({ steps: 0, ...options }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures({ steps: 1500, weights: [0, 1] })).toEqual([]);
});

const mutants: Readonly<Record<string, [DeftProofOptions, RegExp]>> = {
  "squares, without the step": [
    { density: (z) => ops.reduceMean(ops.square(z), undefined, false) },
    /soft density of 0.01/,
  ],
  "ε under a root": [
    {
      density: (z, epsilon) =>
        ops.reduceMean(ops.div(ops.abs(z), ops.add(ops.abs(z), epsilon)), undefined, false),
    },
    /gradient/,
  ],
  "outputs of the blocks instead of what is inside": [
    { steps: 800, weights: [0, 1], make: (model, options) => deft(model, { ...options, inputsOf: ["up"] }) },
    /over that without/,
  ],
  "no term": [
    { steps: 300, weights: [0, 1], make: (model, options) => deft(model, { ...options, weight: 0 }) },
    /over that without/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [options, expected]) => {
  expect((await failures(options)).join("\n")).toMatch(expected);
});
