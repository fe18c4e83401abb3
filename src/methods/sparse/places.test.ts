import { expect, test } from "vitest";
import { rng } from "../../runtime/random/index.js";
import { keepOnly, largest, largestOf } from "./places.js";

const numbers = (count: number, name: string) => rng(1, name).fillNormal(new Float32Array(count));

/** By a full sort; of equals the first. */
const sorted = (data: Float32Array, count: number) =>
  [...data.keys()]
    .sort((a, b) => Math.abs(data[b] as number) - Math.abs(data[a] as number) || a - b)
    .slice(0, count)
    .sort((a, b) => a - b);

test("the largest magnitudes are those of a full sort, ties and signs included", () => {
  const data = numbers(500, "a").map((value, at) => (at % 3 === 0 ? Math.round(value) : value));
  for (const count of [0, 1, 7, 250, 499, 500])
    expect([...largest(data, count)]).toEqual(sorted(data, count));
});

test("over several arrays together, each gets as many as it has among them", () => {
  const [a, b] = [numbers(300, "a"), numbers(200, "b").map((value) => value * 10)];
  const all = new Float32Array(500);
  all.set(a);
  all.set(b, 300);
  const expected = sorted(all, 100);
  const [first, second] = largestOf([a, b], 100) as [Uint32Array, Uint32Array];
  expect([...first, ...second.map((at) => at + 300)]).toEqual(expected);
  expect(second.length).toBeGreaterThan(first.length);
});

test("what is not kept becomes what others are, or zero", () => {
  const data = Float32Array.of(1, 2, 3, 4);
  keepOnly(data, Uint32Array.of(1, 3), Float32Array.of(9, 9, 9, 9));
  expect([...data]).toEqual([9, 2, 9, 4]);
  keepOnly(data, Uint32Array.of(0));
  expect([...data]).toEqual([9, 0, 0, 0]);
});
