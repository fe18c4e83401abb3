import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { rng } from "../../runtime/random/index.js";
import {
  argMax,
  candidatesOf,
  chooseToken,
  distribution,
  nucleus,
  repetitionPenalty,
  samplingSchema,
} from "./sampling.js";
import { stopMatcher } from "./stop.js";

const LOGITS = Float32Array.of(1.5, -0.5, 3, 2.5, 0, -2, 2.75, 0.25);
const PENALISED = [1.5, -0.5, 2, 2.5, 0, -3, 2.75, 0.25];

test("the repetition penalty is transformers': positive logits are divided, negative multiplied, once", () => {
  expect(Array.from(repetitionPenalty(LOGITS, [2, 5, 2], 1.5))).toEqual(PENALISED);
  expect(LOGITS[2]).toBe(3);
});

// Probabilities that transformers' logits processors, in its order, give for PENALISED.
test.each([
  [
    { temperature: 0.7, topK: 5, topP: 0.8 },
    { 2: 0.167721, 3: 0.342609, 6: 0.48967 },
  ],
  [
    { temperature: 1.3, topP: 0.6 },
    { 2: 0.235316, 3: 0.345691, 6: 0.418993 },
  ],
  [
    { temperature: 0.9, minP: 0.2 },
    { 0: 0.102134, 2: 0.178011, 3: 0.310257, 6: 0.409598 },
  ],
  [
    { temperature: 1, topK: 3 },
    { 2: 0.209832, 3: 0.345954, 6: 0.444214 },
  ],
  [{ temperature: 1, topP: 0.05 }, { 6: 1 }],
  [
    { temperature: 2, topK: 6, topP: 0.9, minP: 0.4 },
    { 0: 0.172384, 2: 0.221346, 3: 0.284214, 6: 0.322056 },
  ],
])("%o leaves the tokens that transformers leaves", (options, expected) => {
  const left = distribution(Float32Array.from(PENALISED), samplingSchema.parse(options));
  expect(left.map(({ id }) => id).sort((a, b) => a - b)).toEqual(Object.keys(expected).map(Number));
  for (const { id, probability } of left)
    expect(probability).toBeCloseTo((expected as Record<number, number>)[id] ?? 0, 5);
});

test("ties: greedy takes the first, top-k keeps them all", () => {
  const tied = Float32Array.of(1, 2, 2, 0);
  expect(argMax(tied)).toBe(1);
  expect(candidatesOf(tied, 1, 1).map(({ id }) => id)).toEqual([1, 2]);
});

test("top-p keeps at least one token", () => {
  expect(
    nucleus(
      [
        { id: 4, probability: 0.9 },
        { id: 1, probability: 0.1 },
      ],
      1e-9,
    ),
  ).toEqual([{ id: 4, probability: 0.9 }]);
});

test("tokens come as often as their probability says", () => {
  const random = rng(3);
  const sampling = samplingSchema.parse({ temperature: 1 });
  const logits = Float32Array.from([0.5, 0.3, 0.2], Math.log);
  const counts = [0, 0, 0];
  for (let i = 0; i < 4000; i++) {
    const id = chooseToken(logits, [], sampling, random);
    counts[id] = (counts[id] ?? 0) + 1;
  }
  // Three standard deviations of a share of one half are 0.024.
  for (const [id, share] of [0.5, 0.3, 0.2].entries())
    expect(Math.abs((counts[id] ?? 0) / 4000 - share)).toBeLessThan(0.024);
});

test.each([
  ["NaN", [1, Number.NaN]],
  ["infinity", [1, Number.POSITIVE_INFINITY]],
  ["nothing possible", [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]],
])("logits with %s are a numerical failure", (_name, logits) => {
  const choose = () => chooseToken(Float32Array.from(logits), [], samplingSchema.parse({}), rng(0));
  expect(choose).toThrow(TunesmithError);
  expect(choose).toThrow(/cannot be sampled/);
});

test("a masked token is never taken", () => {
  const logits = Float32Array.of(Number.NEGATIVE_INFINITY, 0, 0);
  const random = rng(1);
  for (let i = 0; i < 50; i++) {
    expect(chooseToken(logits, [], samplingSchema.parse({ temperature: 5 }), random)).not.toBe(0);
  }
});

test("stop strings are found across pieces, and what only looked like one is given out", () => {
  const matcher = stopMatcher(["END", "abab!"]);
  expect(matcher.push("one E")).toEqual({ text: "one ", stopped: false });
  expect(matcher.push("N")).toEqual({ text: "", stopped: false });
  expect(matcher.push("D no")).toEqual({ text: "", stopped: true });
  const other = stopMatcher(["END", "abab!"]);
  expect(other.push("EN")).toEqual({ text: "", stopped: false });
  expect(other.push("Dx".slice(1))).toEqual({ text: "ENx", stopped: false });
  expect(other.push("ababab")).toEqual({ text: "ab", stopped: false });
  expect(other.push("!")).toEqual({ text: "", stopped: true });
  expect(stopMatcher(["END"]).push("x").text).toBe("x");
  const last = stopMatcher(["END"]);
  last.push("the E");
  expect(last.end()).toBe("E");
});

test("the earliest of several stop strings counts", () => {
  expect(stopMatcher(["c", "bc"]).push("abcd")).toEqual({ text: "a", stopped: true });
});
