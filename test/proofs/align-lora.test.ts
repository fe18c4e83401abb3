import { expect, test } from "vitest";
import { type AlignProofOptions, alignProof } from "../../proofs/align-lora.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { alignTasks, klDistance, mmdDistance } from "../../src/methods/index.js";
import type { Inputs, Model, Outputs } from "../../src/models/index.js";

const failures = (options: AlignProofOptions) =>
  failing(alignProof({ seeds: [], weights: [0.2], ...options }));

test("the proof holds", async () => {
  expect(await failures({ seeds: [1], weights: [0.2, 100] })).toEqual([]);
}, 120_000);

/** The model with what is done to its term. */
function withPenalty(change: (outputs: Outputs) => Outputs): typeof alignTasks {
  return (model, options) => {
    const aligned = alignTasks(model, options);
    const below = aligned as Model & { build(inputs: Inputs): Outputs };
    return { ...aligned, build: (inputs: Inputs) => change(below.build(inputs)) };
  };
}

const mutants: Readonly<Record<string, [AlignProofOptions, RegExp]>> = {
  "KL averaged over features": [{ kl: (given) => ops.mul(klDistance(given), 1 / 3) }, /KL of N\(0, 1\)/],
  "KL of squares": [
    { kl: ({ z, ...given }) => klDistance({ ...given, z: ops.square(z) }) },
    /KL of N\(0, 1\)/,
  ],
  "bandwidths four times too wide": [
    { mmd: ({ z, ...given }) => mmdDistance({ ...given, z: ops.mul(z, 0.5) }) },
    /two loops/,
  ],
  "no term": [
    { seeds: [1], align: withPenalty(({ penalty: _, ...rest }) => rest as Outputs) },
    /held-out distance|unseen tasks/,
  ],
  "a term without a gradient": [
    {
      seeds: [1],
      align: withPenalty((outputs) =>
        outputs.penalty ? { ...outputs, penalty: ops.stopGradient(outputs.penalty) } : outputs,
      ),
    },
    /held-out distance|unseen tasks/,
  ],
  "a term that is there at weight 0": [
    {
      seeds: [1],
      align: (model, options) => alignTasks(model, { ...options, weight: options.weight || 0.01 }),
    },
    /weight 0 against LoRA/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [options, expected]) => {
    expect((await failures(options)).join("\n")).toMatch(expected);
  },
  120_000,
);
