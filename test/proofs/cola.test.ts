import { expect, test } from "vitest";
import { colaProof } from "../../proofs/cola.js";
import { failing } from "../../proofs/proof.js";
import { trainChain } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(colaProof({ seeds: [1] }))).toEqual([]);
}, 120_000);

const mutants: Readonly<Record<string, [typeof trainChain, RegExp]>> = {
  "only the last link trained": [
    (base, options) =>
      trainChain(base, {
        ...options,
        links: options.links.slice(-1),
        steps: options.steps,
        splits: [options.steps],
      }),
    /four links|rank of/,
  ],
  "links that all start the schedule anew at full length": [
    (base, options) => trainChain(base, { ...options, optimizer: () => options.optimizer(() => () => 0.02) }),
    /relative error|four links/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [chain, expected]) => {
    expect((await failing(colaProof({ chain, seeds: [1] }))).join("\n")).toMatch(expected);
  },
  120_000,
);

test("splits that are not those of the run are refused", async () => {
  const options = {
    links: [],
    steps: 3,
    objective: () => Promise.reject(),
    optimizer: () => Promise.reject(),
  };
  await expect(trainChain({} as never, options as never)).rejects.toThrow(/share out/);
});
