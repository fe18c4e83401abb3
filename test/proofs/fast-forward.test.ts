import { expect, test } from "vitest";
import { fastForwardProof } from "../../proofs/fast-forward.js";
import { holds } from "../../proofs/proof.js";
import { type FastForward, type FastForwardOptions, fastForward } from "../../src/training/index.js";

const failures = async (make: (options: FastForwardOptions) => FastForward) => {
  const checks = await fastForwardProof({ make, seeds: [1] }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures(fastForward)).toEqual([]);
});

const mutants: Readonly<Record<string, [(options: FastForwardOptions) => FastForward, RegExp]>> = {
  "no stages": [(options) => fastForward({ ...options, maxTrials: 0 }), /forward passes saved/],
  "stages that go on after the loss rises": [
    (options) => fastForward({ ...options, patience: 20 }),
    /that do not fall/,
  ],
  "stages that are put back": [
    (options) => {
      const phase = fastForward(options);
      return {
        ...phase,
        async afterUpdate(step, params, validate) {
          const before = new Map([...params].map(([name, data]) => [name, data.slice()]));
          const stage = await phase.afterUpdate(step, params, validate);
          for (const [name, data] of before) params.get(name)?.set(data);
          return stage;
        },
      };
    },
    /forward passes saved/,
  ],
};

test.each(Object.entries(mutants))("%s fail", async (_, [make, expected]) => {
  expect((await failures(make)).join("\n")).toMatch(expected);
});
