import { expect, test } from "vitest";
import { type AlphaTuningProofOptions, alphaTuningProof } from "../../proofs/alphatuning.js";
import { holds } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { alphaTuningMethod } from "../../src/methods/index.js";
import { quantizeBinary } from "../../src/tensor/index.js";

const failures = async (options: AlphaTuningProofOptions) => {
  const checks = await alphaTuningProof({ steps: 0, ...options }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures({ steps: 1000, planes: [2] })).toEqual([]);
});

const mutants: Readonly<Record<string, [AlphaTuningProofOptions, RegExp]>> = {
  "no refinement": [
    { quantize: (w, rows, columns, options) => quantizeBinary(w, rows, columns, { ...options, rounds: 0 }) },
    /mean square error of 3/,
  ],
  "scales of other rows": [
    {
      quantize(w, rows, columns, options) {
        const packed = quantizeBinary(w, rows, columns, options);
        return { ...packed, scales: packed.scales.toReversed() };
      },
    },
    /mean square error/,
  ],
  "errors that grow": [
    {
      quantize: (w, rows, columns, options) =>
        quantizeBinary(w, rows, columns, {
          ...options,
          onError: (row, error) => options.onError?.(row, -error),
        }),
    },
    /error rises/,
  ],
  "a plane that does not follow its scales": [
    {
      steps: 500,
      planes: [1],
      method: {
        ...alphaTuningMethod,
        weight: (weight, values) =>
          alphaTuningMethod.weight(weight, {
            ...values,
            alpha_scales: ops.add(
              values.alpha_start as Value,
              ops.mul(ops.sub(values.alpha_scales as Value, values.alpha_start as Value), -0.001),
            ),
          }),
      },
    },
    /above the quantised/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [options, expected]) => {
  expect((await failures(options)).join("\n")).toMatch(expected);
});
