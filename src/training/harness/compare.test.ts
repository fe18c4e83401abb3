import { expect, test } from "vitest";
import { compareResults, scorePredictions } from "./index.js";

const rows = (answers: readonly string[]) =>
  answers.map((prediction, at) => ({ prediction, references: `the right answer is ${at}` }));
const run = (name: string, answers: readonly string[], metrics = ["exact_match", "bleu"]) =>
  // As it comes back from a file.
  JSON.parse(JSON.stringify(scorePredictions(name, rows(answers), metrics)));
const all = (wrong: number) =>
  Array.from({ length: 30 }, (_, at) => (at < wrong ? "no" : `the right answer is ${at}`));

test("every shared metric is compared, from the examples", () => {
  const [matches, bleu] = compareResults(run("a", all(20)), run("b", all(5)), { resamples: 300 });
  expect(matches).toMatchObject({ task: "a", metric: "exact_match", examples: 30, higherIsBetter: true });
  expect(matches?.difference).toBeCloseTo(0.5);
  expect(matches?.pValue).toBeLessThan(0.05);
  expect(matches?.permutationPValue).toBeLessThan(0.05);
  expect(bleu?.b).toBeGreaterThan(bleu?.a as number);
  expect(compareResults(run("a", all(3)), run("a", all(3)), { resamples: 50 })[0]?.pValue).toBe(1);
});

test("other examples, other files and runs without anything in common are refused", () => {
  const code = (a: unknown, b: unknown) => {
    try {
      compareResults(a, b, { resamples: 10 });
      return "none";
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  const one = run("a", all(3));
  expect(code(one, run("a", all(3).slice(1)))).toBe("data-invalid");
  expect(
    code(
      one,
      scorePredictions("a", [...rows(all(2)).slice(0, 29), { prediction: "x", references: "y" }], ["bleu"]),
    ),
  ).toBe("data-invalid");
  expect(code({ loss: 1 }, one)).toBe("data-invalid");
  expect(code(one, run("a", all(3), ["wer"]))).toBe("data-empty");
});
