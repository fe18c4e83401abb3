import { expect, test } from "vitest";
import { rng } from "../../runtime/random/index.js";
import { type AllocationItem, allocateBits } from "./bit-allocation.js";

/** Costs that fall with bits, with noise so that some ways are not worth choosing. */
function items(count: number, ways: number, seed: number): AllocationItem[] {
  const numbers = rng(seed, "items").fillUniform(new Float32Array(count * ways * 2), 0, 1);
  return Array.from({ length: count }, (_, item) => {
    const size = 100 + 400 * Number(numbers[item]);
    const bits = Array.from({ length: ways }, (_way, way) =>
      Math.round(size * (2 + 6 * Number(numbers[item * ways + way]))),
    );
    const costs = bits.map(
      (each, way) => size * 4 ** (-each / size) * (0.6 + 0.8 * Number(numbers[(count + item) * ways + way])),
    );
    return { bits, costs };
  });
}

function bruteForce(list: readonly AllocationItem[], budget: number): number {
  const [first, ...rest] = list;
  if (!first) return budget >= 0 ? 0 : Number.POSITIVE_INFINITY;
  return Math.min(
    ...first.costs.map((cost, way) => cost + bruteForce(rest, budget - Number(first.bits[way]))),
  );
}

const sumOf = (list: readonly AllocationItem[], chosen: readonly number[], of: "bits" | "costs") =>
  list.reduce((sum, item, at) => sum + Number(item[of][Number(chosen[at])]), 0);

test("the optimum that trying everything finds, within the budget, and above the mixed bound", () => {
  let better = 0;
  for (let seed = 0; seed < 30; seed++) {
    const list = items(4, 6, seed);
    const most = list.reduce((sum, { bits }) => sum + Math.max(...bits), 0);
    const least = list.reduce((sum, { bits }) => sum + Math.min(...bits), 0);
    for (const share of [0, 0.1, 0.35, 0.6, 1]) {
      const budget = Math.floor(least + share * (most - least));
      const { chosen, cost, bits, bound, exact } = allocateBits(list, budget);
      expect(exact).toBe(true);
      expect(bits).toBeLessThanOrEqual(budget);
      expect([bits, cost]).toEqual([
        sumOf(list, chosen, "bits"),
        expect.closeTo(sumOf(list, chosen, "costs"), 9),
      ]);
      expect(cost).toBeCloseTo(bruteForce(list, budget), 9);
      expect(bound).toBeLessThanOrEqual(cost + 1e-9);
      if (bound < cost - 1e-9) better++;
    }
  }
  expect(better, "budgets that no vertex of the mixed problem uses up").toBeGreaterThan(20);
});

test("hundreds of matrices with many ways: the bound is met but for one item", () => {
  const list = items(200, 40, 7);
  const budget = list.reduce((sum, { bits }) => sum + (Math.min(...bits) + Math.max(...bits)) / 2, 0);
  const { cost, bits, bound } = allocateBits(list, budget, { maxStates: 500 });
  expect(bits).toBeLessThanOrEqual(budget);
  const dearest = Math.max(...list.map(({ costs }) => Math.max(...costs)));
  expect(cost - bound).toBeLessThan(0.2 * dearest);
});

test("few states give a choice within the budget, and say that it may not be the best", () => {
  const list = items(12, 8, 3);
  const budget = list.reduce((sum, { bits }) => sum + Math.min(...bits) * 1.5, 0);
  const full = allocateBits(list, budget);
  const narrow = allocateBits(list, budget, { maxStates: 1 });
  expect(full.exact).toBe(true);
  expect(narrow.bits).toBeLessThanOrEqual(budget);
  expect(narrow.cost).toBeGreaterThanOrEqual(full.cost - 1e-12);
  expect(narrow.exact).toBe(false);
});

test("a budget below the smallest choice is refused with what it takes; ways without a cost are left out", () => {
  const list = [{ costs: [3, 1], bits: [20, 40] }];
  expect(() => allocateBits(list, 19)).toThrow(/takes 20 bits, the budget is 19/);
  expect(allocateBits([{ costs: [Number.POSITIVE_INFINITY, 1], bits: [20, 40] }], 50).chosen).toEqual([1]);
});
