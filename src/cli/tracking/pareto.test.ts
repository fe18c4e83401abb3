import { expect, test } from "vitest";
import { paretoChart, paretoFront } from "./pareto.js";

const point = (method: string, parameters: number, accuracy: number, stepSeconds = 0.1) => ({
  ...{ method, parameters, stepSeconds, memoryBytes: 1e6 * parameters },
  ...{ lossAfter: 1 - accuracy, scores: { accuracy } },
});
const points = [
  point("small", 10, 0.6),
  point("beaten", 20, 0.5),
  point("large", 30, 0.9),
  point("equal", 30, 0.9),
];
const front = (value: (each: (typeof points)[number]) => number, highIsGood: boolean) =>
  paretoFront(points, ({ parameters }) => parameters, value, highIsGood).map(({ method }) => method);

test("the front holds what nothing cheaper matches", () => {
  expect(front(({ scores }) => scores.accuracy, true)).toEqual(["small", "large", "equal"]);
  expect(front(({ lossAfter }) => lossAfter, false)).toEqual(["small", "large", "equal"]);
  expect(front(({ scores }) => scores.accuracy, false)).toEqual(["small", "beaten"]);
});

test("the chart has a panel for each cost and leaves out what failed", () => {
  const failed = { ...point("broken", 5, Number.NaN), failed: "config-invalid" };
  const svg = paretoChart([...points, failed], "accuracy");
  for (const label of ["trained parameters", "memory of the run (MB)", "time of a step (ms)"])
    expect(svg).toContain(label);
  expect(svg.match(/>beaten</g)).toHaveLength(3);
  expect(svg).not.toContain("broken");
});
