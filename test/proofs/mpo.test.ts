import { expect, test } from "vitest";
import { type MpoProofOptions, mpoProof } from "../../proofs/mpo.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { mpoDecompose, mpoMethod, mpoModel } from "../../src/methods/index.js";

const failures = async (options: MpoProofOptions) =>
  (await failing(mpoProof({ steps: 0, ...options }))).join("\n");

test("the proof's identities hold", async () => {
  expect(await failures({})).toBe("");
});

const mutants: Readonly<Record<string, [MpoProofOptions, RegExp]>> = {
  "axes in another order": [
    {
      decompose: (weight, options) => {
        const turned = Float64Array.from(weight.data, (_, at) => {
          const [row, column] = [Math.floor(at / weight.cols), at % weight.cols];
          const other = (row % 2) * (weight.rows / 2) + Math.floor(row / 2);
          return Number(weight.data[other * weight.cols + column]);
        });
        return mpoDecompose({ ...weight, data: turned }, options);
      },
    },
    /largest error[\s\S]*Kronecker/,
  ],
  "truncation that forgets what it loses": [
    { decompose: (weight, options) => ({ ...mpoDecompose(weight, options), discarded: 0 }) },
    /squared error/,
  ],
  "bonds that are one too narrow": [
    {
      decompose: (weight, options = {}) =>
        mpoDecompose(weight, {
          ...options,
          truncate: (options.truncate ?? 9) - (options.truncate === 1 ? 0 : 1),
        }),
    },
    /largest error/,
  ],
  "a central tensor for each layer": [
    { make: (model, options) => mpoModel(model, { ...options, share: "none" }) },
    /numbers of 12 shared maps[\s\S]*central tensor moves/,
  ],
  "one more run of layers": [
    { make: (model, options) => mpoModel(model, { ...options, groups: 2 }) },
    /numbers of 12 shared maps/,
  ],
  "the start not subtracted": [
    {
      method: {
        ...mpoMethod,
        weight: (weight, values, site, config) =>
          ops.add(mpoMethod.weight(weight, values, site, config), ops.mul(weight, 1e-3)),
      },
    },
    /change at the start/,
  ],
  "sides that are exchanged": [
    {
      method: {
        ...mpoMethod,
        weight: (weight, { mpo_T1: a, mpo_start_1: b, ...rest }, site, config) =>
          mpoMethod.weight(
            weight,
            { ...rest, ...(a && b ? { mpo_T1: b, mpo_start_1: a } : {}) },
            site,
            config,
          ),
      },
    },
    /with its tensors moved/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [options, expected]) => {
  expect(await failures(options)).toMatch(expected);
});
