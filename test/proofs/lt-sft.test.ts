import { expect, test } from "vitest";
import { ltSftProof } from "../../proofs/lt-sft.js";
import { holds } from "../../proofs/proof.js";
import { constant } from "../../src/graph/index.js";
import { ltSft } from "../../src/methods/index.js";
import { baseNumbers } from "../../src/methods/sparse/patch.js";
import type { Model } from "../../src/models/index.js";
import { tensor } from "../../src/tensor/index.js";

const failures = async (make: typeof ltSft, steps = 0) => {
  const checks = await ltSftProof({ make, steps }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures(ltSft, 600)).toEqual([]);
});

/** The tuned model as it would be, had it moved by other distances. */
const moving =
  (distance: (move: number, at: number, largest: number) => number): typeof ltSft =>
  async (base, options) => {
    const weights = new Map(options.tuned.weights);
    for (const name of base.weights.keys()) {
      const [start, now] = [await baseNumbers(base, name), await baseNumbers(options.tuned, name)];
      const moves = now.map((value, at) => value - Number(start[at]));
      const largest = moves.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const data = start.map((value, at) => value + distance(Number(moves[at]), at, largest));
      const { shape } = base.weights.get(name) as { shape: readonly number[] };
      weights.set(name, constant(tensor("float32", shape, data), name));
    }
    return ltSft(base, { ...options, tuned: { ...options.tuned, weights } as Model });
  };

const mutants: Readonly<Record<string, [typeof ltSft, RegExp]>> = {
  "any entries": [moving((_, at) => (at * 7919) % 997), /did not move farthest/],
  "the entries that moved least": [moving((move) => 1 / (Math.abs(move) + 1e-3)), /did not move farthest/],
  "entries chosen in each weight by itself": [
    moving((move, _, largest) => move / largest),
    /ten times as far|did not move farthest/,
  ],
  "all entries trained": [
    async (base, options) => {
      const model = await ltSft(base, options);
      return { ...model, trainingHooks: () => ({}) };
    },
    /did not move farthest/,
  ],
  "twice as many entries": [
    (base, options) => ltSft(base, { ...options, proportion: Math.min(1, 2 * (options.proportion ?? 0)) }),
    /over their number/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [make, expected]) => {
  expect((await failures(make)).join("\n")).toMatch(expected);
});
