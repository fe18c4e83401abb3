import { expect, test } from "vitest";
import { numpyRandom } from "../random/index.js";
import { kMeans, matrix } from "./index.js";
import cases from "./k-means.fixture.json" with { type: "json" };

test.each(cases)("$rows points: clusters are scikit-learn's, from the rows that NumPy draws", (given) => {
  const { rows, cols, data, start, iterations, labels } = given;
  expect(numpyRandom(123456789).choice(rows, start.length)).toEqual(start);
  const points = { rows, cols, data: Float32Array.from(data) };
  expect([...kMeans(points, { start, iterations })]).toEqual(labels);
});

test("a row that there is not and no row are refused", () => {
  const points = matrix([[0], [1]]);
  for (const start of [[2], [0.5], []])
    expect(() => kMeans(points, { start })).toThrowError(expect.objectContaining({ code: "config-invalid" }));
});
