import { expect, test } from "vitest";
import { type DAdaptationProofOptions, dAdaptationProof } from "../../proofs/d-adaptation.js";
import { holds } from "../../proofs/proof.js";
import {
  adamw,
  dadaptAdam,
  dadaptDualAveraging,
  dadaptSgd,
  type Optimizer,
} from "../../src/training/index.js";

const failures = async (options: DAdaptationProofOptions) => {
  const checks = await dAdaptationProof({ steps: 0, ...options }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures({})).toEqual([]);
});

/** The optimiser with something done to its estimate after every step. */
const tampered = (optimizer: Optimizer, change: (d: number, step: number) => number): Optimizer => ({
  ...optimizer,
  step(params, grads, state, context) {
    optimizer.step(params, grads, state, context);
    state.scalars.d = change(Number(state.scalars.d), context.step);
  },
});

type Mutant = [DAdaptationProofOptions, RegExp];
const mutants: Readonly<Record<string, Mutant>> = {
  "an estimate that does not grow": [
    { dualAveraging: (options) => dadaptDualAveraging({ ...options, growthRate: 1 }) },
    /d \/ D after/,
  ],
  "an estimate that grows by itself": [
    { dualAveraging: (options) => tampered(dadaptDualAveraging(options), (d) => d * 1.01) },
    /largest d \/ D/,
  ],
  "the last weights instead of their average, scaled twice": [
    {
      dualAveraging: (options) => {
        const { enterEvaluation: _, ...rest } = dadaptDualAveraging({ ...options, lr: 4 });
        return rest;
      },
    },
    /distance/,
  ],
  "plain AdamW": [
    { adam: ({ schedule }) => adamw({ lr: 1e-3, ...(schedule && { schedule }) }) },
    /least squares/,
  ],
  "an estimate that falls": [
    { adam: (options) => tampered(dadaptAdam(options), (d, step) => (step % 5 ? d : d / 2)) },
    /times that d falls/,
  ],
  "SGD whose step ignores the first gradient's norm": [
    { sgd: (options) => dadaptSgd({ ...options, d0: 2 * Number(options.d0) }) },
    /SGD, growth 1/,
  ],
};

test.each(Object.entries(mutants))("%s fails", async (_, [options, expected]) => {
  expect((await failures(options)).join("\n")).toMatch(expected);
});
