import { expect, test } from "vitest";
import { type LimitsProofOptions, limitsProof } from "../../proofs/lora-computational-limits.js";
import { failing } from "../../proofs/proof.js";
import {
  type AttentionGradient,
  type AttentionHead,
  fastLoraAttentionGrad,
  loraAttentionGrad,
  loraEfficiency,
} from "../../src/methods/index.js";
import { gemm } from "../../src/runtime/index.js";

const failures = (options: LimitsProofOptions) => failing(limitsProof({ length: 256, ...options }));

test("the proof holds, but for what takes a clock", async () => {
  expect(await failures({ parts: ["engine", "transition", "counts", "training", "monitor"] })).toEqual([]);
});

/** f ∘ P for f ∘ (P − s): each softmax's Jacobian without the product of two vectors. */
function withoutRowSums(head: AttentionHead): AttentionGradient {
  const { c1, c2, c3, y, base, a, b } = head;
  const w = gemm(b, a);
  w.data.forEach((value, at) => {
    w.data[at] = value + Number(base.data[at]);
  });
  const f = gemm(gemm(c1, w), c2, { transposeB: true });
  for (let row = 0; row < f.rows; row++) {
    const own = f.data.subarray(row * f.cols, (row + 1) * f.cols).map(Math.exp);
    const sum = own.reduce((total, value) => total + value, 0);
    f.data.set(
      own.map((value) => value / sum),
      row * f.cols,
    );
  }
  const c = gemm(f, c3);
  c.data.forEach((value, at) => {
    c.data[at] = value - Number(y.data[at]);
  });
  const p = gemm(c, c3, { transposeB: true });
  const dw = gemm(
    gemm(c1, { ...f, data: f.data.map((value, at) => value * Number(p.data[at])) }, { transposeA: true }),
    c2,
  );
  const own = loraAttentionGrad(head);
  return { ...own, dw, da: gemm(b, dw, { transposeA: true }), db: gemm(dw, a, { transposeB: true }) };
}

const mutants: Readonly<Record<string, [LimitsProofOptions, RegExp]>> = {
  "softmax as if its rows were not normalised": [
    { parts: ["engine"], exact: withoutRowSums },
    /engine's gradients/,
  ],
  "one degree less than it says": [
    {
      parts: ["transition"],
      fast: ({ degree }) => fastLoraAttentionGrad({ degree: Math.max(1, degree - 4) }),
    },
    /degree/,
  ],
  "the exact gradient in the place of the fast one": [
    { parts: ["transition", "counts"], fast: () => (head, meter) => loraAttentionGrad(head, meter) },
    /least error of all degrees[\s\S]*of degree 4/,
  ],
  "a gradient that points half way": [
    {
      parts: ["training"],
      fast: (options) => (head, meter) => {
        const own = fastLoraAttentionGrad(options)(head, meter);
        return { ...own, db: { ...own.db, data: own.db.data.map((value) => value / 2) } };
      },
    },
    /loop of degree 4/,
  ],
  "norms of the base alone": [
    {
      parts: ["monitor"],
      efficiency: async (model, adapter, batch, options) => {
        for (const { name, tensor } of model.parameters.values())
          if (name.endsWith("lora_B")) (tensor.data as Float32Array).fill(0);
        return loraEfficiency(model, adapter, batch, options);
      },
    },
    /least rise/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [options, expected]) => {
  expect((await failures(options)).join("\n")).toMatch(expected);
});
