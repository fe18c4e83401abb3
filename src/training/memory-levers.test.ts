import { expect, test } from "vitest";
import { fitMemory, type MemoryLevers, type MemoryPlan } from "./index.js";

const MB = 2 ** 20;
const levers: MemoryLevers = {
  ...{ batchSize: 8, accumulate: 1, recompute: 0, chunkRows: undefined },
  ...{ prefixCacheBytes: 100 * MB, prepack: undefined, stateBits: 32 },
};

/** A run of which every lever takes its part. */
function planOf(now: MemoryLevers): MemoryPlan {
  const activations = now.batchSize * (40 - 2 * now.recompute) * MB;
  const parts = {
    ...{ weights: 200 * MB, packed: now.prepack === false ? 0 : 50 * MB, parameters: MB, gradients: MB },
    ...{ optimizer: (now.stateBits === 8 ? 5 : 20) * MB, activations, evaluation: 0, best: 0 },
    ...{ prefixCache: now.prefixCacheBytes, transfers: 0, runtime: (now.chunkRows === 16 ? 90 : 100) * MB },
  };
  const total = Object.values(parts).reduce((a, b) => a + b, 0);
  return { ...parts, total, inUse: 100 * MB, peak: total + 100 * MB };
}
const choose = (megabytes: number) => fitMemory({ budget: megabytes * MB, levers, blocks: 12, planOf });
const moved = (megabytes: number) => choose(megabytes).moves.map(({ lever, to }) => [lever, to]);

test("a run that fits stays as it is", () => {
  expect(choose(2000)).toMatchObject({ levers, moves: [] });
});

test("as little is changed as the budget asks for, what costs least first", () => {
  expect(moved(800)).toEqual([["prefixCacheBytes", 0]]);
  expect(moved(750)).toEqual([
    ["prefixCacheBytes", 0],
    ["prepack", false],
  ]);
  // 732 MB are left after the small ones, every block saves 16.
  expect(moved(700)).toEqual([
    ["prefixCacheBytes", 0],
    ["prepack", false],
    ["chunkRows", 16],
    ["recompute", 2],
  ]);
  const { levers: chosen, plan, moves } = choose(505);
  expect(moves.slice(-2).map(({ lever, to }) => [lever, to])).toEqual([
    ["recompute", 12],
    ["batchSize", 4],
  ]);
  expect(chosen).toMatchObject({ batchSize: 4, accumulate: 2, stateBits: 32 });
  expect(plan.peak).toBeLessThanOrEqual(505 * MB);
  for (const [at, move] of moves.entries())
    expect(move.before).toBe(moves[at - 1]?.after ?? planOf(levers).peak);
  expect(moved(420).at(-1)).toEqual(["stateBits", 8]);
  expect(choose(505)).toEqual(choose(505));
});

test("what cannot fit is an error that says what would help", () => {
  expect(() => choose(300)).toThrow(
    expect.objectContaining({
      code: "out-of-memory",
      fix: expect.stringMatching(/allow \d+ MB; shorter rows.*sgd.*nf4/),
      details: expect.objectContaining({ plan: expect.objectContaining({ weights: 200 * MB }) }),
    }),
  );
});

test("levers that do not help are left alone", () => {
  const stuck = { ...levers, prefixCacheBytes: 0 };
  const constant = () => planOf({ ...stuck, recompute: 0 });
  expect(() => fitMemory({ budget: MB, levers: stuck, blocks: 12, planOf: constant })).toThrow(
    /needs \d+ MB/,
  );
  const { moves } = fitMemory({ budget: 700 * MB, levers: stuck, blocks: 0, planOf });
  expect(moves.map(({ lever }) => lever)).toEqual(["prepack", "chunkRows", "batchSize"]);
});
