import { expect, test } from "vitest";
import { holds } from "../../proofs/proof.js";
import { type SketchTuneProofOptions, sketchTuneProof } from "../../proofs/sketchtune.js";
import { ops, type Value } from "../../src/graph/index.js";
import { buildSketch, sketchTuneMethod } from "../../src/methods/index.js";

const failures = async (options: SketchTuneProofOptions) => {
  const checks = await sketchTuneProof({ steps: 0, ...options }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures({ steps: 600 })).toEqual([]);
});

const mutants: Readonly<Record<string, [SketchTuneProofOptions, RegExp]>> = {
  "one book, read by every group": [
    {
      build(weight, options) {
        const sketch = buildSketch(weight, options);
        const size = 2 ** options.bits;
        const row = options.groups * size;
        const books = sketch.books.map((_, at) => sketch.books[at - (at % row) + (at % size)] as number);
        return { ...sketch, books };
      },
    },
    /twice as many books/,
  ],
  "codes of other rows": [
    {
      build(weight, options) {
        const sketch = buildSketch(weight, options);
        return { ...sketch, codes: sketch.codes.toReversed() };
      },
    },
    /over rounding's/,
  ],
  "codes that do not know the inputs": [
    { build: (weight, options) => buildSketch(weight, { ...options, covariance: undefined }) },
    /know the inputs/,
  ],
  "books that all rows share": [
    {
      steps: 300,
      method: {
        ...sketchTuneMethod,
        weight: (weight, values, site, config) =>
          sketchTuneMethod.weight(
            weight,
            {
              ...values,
              sketch_codes: ops.mul(values.sketch_codes as Value, ops.cast(ops.ints([0]), "int32")),
            },
            site,
            config,
          ),
      },
    },
    /books: error/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [options, expected]) => {
  expect((await failures(options)).join("\n")).toMatch(expected);
});
