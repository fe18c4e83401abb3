import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { pythonRandom } from "./python-random.js";

test("samples and numbers are Python's", () => {
  // r = random.Random(seed); r.sample(range(n), k) one after the other; r.randrange(1000)
  const cases: [number, [number, number, number[]][], number][] = [
    [
      1234,
      [
        [100, 5, [99, 56, 14, 0, 11]],
        [10, 3, [9, 0, 1]],
        [30, 4, [3, 24, 11, 7]],
        [100, 7, [2, 3, 44, 82, 79, 61, 78]],
        [5, 5, [3, 1, 0, 2, 4]],
      ],
      865,
    ],
    [
      0,
      [
        [22, 2, [12, 13]],
        [
          1000,
          20,
          [41, 265, 988, 523, 497, 414, 940, 802, 849, 310, 991, 488, 366, 597, 913, 929, 223, 516, 142, 288],
        ],
      ],
      143,
    ],
    [4294967295, [[7, 1, [5]]], 634],
  ];
  for (const [seed, samples, last] of cases) {
    const random = pythonRandom(seed);
    for (const [n, count, expected] of samples) expect(random.sample(n, count)).toEqual(expected);
    expect(random.below(1000)).toBe(last);
  }
});

test("seeds and sizes out of range are refused", () => {
  expect(() => pythonRandom(-1)).toThrow(TunesmithError);
  expect(() => pythonRandom(1).sample(2, 3)).toThrow(TunesmithError);
});
