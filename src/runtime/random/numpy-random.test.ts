import { expect, test } from "vitest";
import { numpyRandom } from "./numpy-random.js";

test("doubles and choices are NumPy's", () => {
  // r = np.random.RandomState(123456789); [r.random_sample() for _ in range(4)]
  const { double } = numpyRandom(123456789);
  expect([double(), double(), double(), double()]).toEqual([
    0.532833024789759, 0.5341366008904166, 0.509553035526467, 0.7135640318327616,
  ]);
  // np.random.RandomState(seed).choice(n, size=count, replace=False, p=np.full(n, 1 / n))
  const cases: [number, number, number, number[]][] = [
    [123456789, 24, 3, [12, 17, 5]],
    [123456789, 768, 5, [409, 410, 391, 548, 197]],
    [7, 6, 5, [0, 4, 2, 5, 3]],
    [0, 4, 4, [2, 1, 3, 0]],
  ];
  for (const [seed, n, count, expected] of cases)
    expect(numpyRandom(seed).choice(n, count)).toEqual(expected);
});

test("seeds and sizes out of range are refused", () => {
  expect(() => numpyRandom(-1)).toThrowError(expect.objectContaining({ code: "config-invalid" }));
  expect(() => numpyRandom(0).choice(3, 4)).toThrowError(expect.objectContaining({ code: "config-invalid" }));
});
