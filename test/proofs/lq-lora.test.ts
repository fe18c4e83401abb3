import { expect, test } from "vitest";
import { type LqLoraProofOptions, lqLoraProof } from "../../proofs/lq-lora.js";
import { failing } from "../../proofs/proof.js";
import { allocateBits, lqDecompose } from "../../src/methods/index.js";
import { randomizedSvd } from "../../src/runtime/index.js";
import { dequantizeNormalFloat, quantizeNormalFloat, unpackCodes } from "../../src/tensor/index.js";

const failures = (options: LqLoraProofOptions) =>
  failing(lqLoraProof({ matrices: ["outlier columns"], ...options }));

test("codes, splits, Fisher information and budgets hold", async () => {
  expect(await failures({ parts: ["codes", "split", "fisher", "budget"] })).toEqual([]);
});

test("a language model in 2.75 bits starts nearer to the floats than one in NF3, and ends better", async () => {
  expect(await failures({ parts: ["model"], steps: [150, 30] })).toEqual([]);
});

const mutants: Readonly<Record<string, [LqLoraProofOptions, RegExp]>> = {
  "codes of a byte each": [
    {
      parts: ["codes"],
      quantize(weight, layout) {
        const packed = quantizeNormalFloat(weight, layout);
        return { ...packed, codes: unpackCodes(packed.codes, weight.length, layout.bits) };
      },
    },
    /packed bits are not those/,
  ],
  "quantised first, then the error's leading part": [
    {
      parts: ["split"],
      async decompose(weight, rows, columns, options) {
        const { rank, layout } = options;
        const quantised = quantizeNormalFloat(weight, layout);
        const kept = dequantizeNormalFloat(quantised, layout, weight.length);
        const data = weight.map((value, at) => value - Number(kept[at]));
        const { u, s, vt } = await randomizedSvd({ rows, cols: columns, data }, { rank });
        const l1 = Float32Array.from(
          { length: rows * rank },
          (_, at) => Number(u.data[Math.floor(at / rank) * u.cols + (at % rank)]) * Number(s[at % rank]),
        );
        const left = Math.hypot(...data) ** 2 - s.reduce((sum, value) => sum + value ** 2, 0);
        return {
          quantised,
          l1,
          l2: Float32Array.from(vt.data),
          error: Math.sqrt(left),
          errors: [Math.sqrt(left)],
        };
      },
    },
    /LQ over quantised, then/,
  ],
  "the round whose error had grown": [
    {
      parts: ["split"],
      async decompose(...given) {
        const found = await lqDecompose(...given);
        return { ...found, error: Number(found.errors.at(-1)) };
      },
    },
    /error above the least/,
  ],
  "Fisher information that is not read": [
    {
      parts: ["fisher"],
      decompose: (weight, rows, columns, { fisher: _, ...options }) =>
        lqDecompose(weight, rows, columns, options),
    },
    /Fisher-LQ over LQ/,
  ],
  "the least cost, whatever it takes": [
    { parts: ["budget"], allocate: (items) => allocateBits(items, Number.MAX_SAFE_INTEGER) },
    /bits beyond the budgets/,
  ],
  "a part of the budget left over": [
    { parts: ["budget"], allocate: (items, budget) => allocateBits(items, 0.93 * budget) },
    /trying all/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [options, expected]) => {
  expect((await failures(options)).join("\n")).toMatch(expected);
});
