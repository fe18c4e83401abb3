import { describe, expect, test } from "vitest";
import { boftProof } from "../../proofs/boft.js";
import { hraProof } from "../../proofs/hra.js";
import { orthogonalAdaptationProof } from "../../proofs/orthogonal-adaptation.js";
import { holds, type Proof } from "../../proofs/proof.js";
import { psoftProof } from "../../proofs/psoft.js";
import { qgoftProof } from "../../proofs/qgoft.js";
import { sodaProof } from "../../proofs/soda.js";
import { ops, type Value } from "../../src/graph/index.js";
import {
  boftMethod,
  conceptBasis,
  goftMethod,
  hraMethod,
  orthogonalAdaptationMethod,
  psoftMethod,
  sodaMethod,
  stiefelStep,
} from "../../src/methods/index.js";

/** The parts of these experiments that take seconds; learning is left to npm run proofs. */
const algebraOnly = true;

const failures = async (proof: Proof) =>
  (await proof.run()).filter((check) => !holds(check)).map(({ what }) => what);

test.each([
  boftProof({ algebraOnly }),
  hraProof({ algebraOnly }),
  psoftProof({ algebraOnly }),
  qgoftProof({ algebraOnly }),
  sodaProof(),
  orthogonalAdaptationProof({ algebraOnly }),
])("$name: the proof holds", async (proof) => {
  expect(await failures(proof)).toEqual([]);
});

/** Columns in another order. */
const reversed = (v: Value): Value => {
  const count = v.shape[1] as number;
  return ops.gather(v, ops.ints(Array.from({ length: count }, (_, at) => count - 1 - at)), 1);
};

/** A matrix `[n, n]` as its transpose. */
const flipped = (v: Value | undefined): Value => ops.transpose(v as Value, [1, 0]);

const mutants: Readonly<Record<string, readonly [Proof, RegExp]>> = {
  "BOFT that falls back to one factor": [
    boftProof({
      algebraOnly,
      method: {
        ...boftMethod,
        weight: (w, values, site, own) => boftMethod.weight(w, values, site, { ...own, factors: 1 }),
      },
    }),
    /rows of R without/,
  ],
  "BOFT whose factors all couple neighbours": [
    boftProof({
      algebraOnly,
      method: {
        ...boftMethod,
        weight: (w, values, site, own) =>
          Array.from({ length: own.factors }, (_, level) => level).reduce(
            (turned, level) =>
              boftMethod.weight(
                turned,
                { ...values, boft_R: ops.slice(values.boft_R as Value, 0, level, level + 1) },
                site,
                { ...own, factors: 1 },
              ),
            w,
          ),
      },
    }),
    /half-blocks/,
  ],
  "BOFT with generators that are not made skew": [
    boftProof({
      algebraOnly,
      method: {
        ...boftMethod,
        weight: (w, values, site, own) =>
          ops.add(
            boftMethod.weight(w, values, site, own),
            ops.mul(ops.reduceSum(values.boft_R as Value, undefined, false), w),
          ),
      },
    }),
    /RᵀR − I/,
  ],
  "HRA with reflections in the opposite order": [
    hraProof({
      algebraOnly,
      method: {
        ...hraMethod,
        weight: (w, values, site, own) =>
          hraMethod.weight(w, { hra_u: reversed(values.hra_u as Value) }, site, own),
      },
    }),
    /H against the product/,
  ],
  "HRA whose activations go the other way round": [
    hraProof({
      algebraOnly,
      method: {
        ...hraMethod,
        forward: (call, own) =>
          hraMethod.forward({ ...call, tensors: { hra_u: reversed(call.tensors.hra_u as Value) } }, own),
      },
    }),
    /activations against the same product/,
  ],
  "HRA from a start that is not paired": [
    hraProof({
      algebraOnly,
      method: { ...hraMethod, tensors: (site, own) => hraMethod.tensors(site, { ...own, init: "random" }) },
    }),
    /paired start/,
  ],
  "PSOFT with singular values shared between both sides": [
    psoftProof({
      algebraOnly,
      method: {
        ...psoftMethod,
        weight(w, values, site, own) {
          const b = values.psoft_B as Value;
          const root = ops.sqrt(ops.reduceL2(b, [0]));
          const a = ops.mul(values.psoft_A as Value, ops.transpose(root, [1, 0]));
          return psoftMethod.weight(w, { ...values, psoft_A: a, psoft_B: ops.div(b, root) }, site, own);
        },
      },
    }),
    /singular values/,
  ],
  "PSOFT that scales when it should only rotate": [
    psoftProof({
      algebraOnly,
      method: {
        ...psoftMethod,
        tensors: (site, own) => psoftMethod.tensors(site, { ...own, scaleInputs: true }),
      },
    }),
    /singular values[\s\S]*numbers are not/,
  ],
  "GOFT that always pairs neighbours": [
    qgoftProof({
      algebraOnly,
      method: {
        ...goftMethod,
        weight(w, values) {
          // A level's planes at stride 1, whatever the level: coordinates overlap from one level to the next.
          const width = w.shape[1] as number;
          const cos = ops.cos(ops.mul(ops.tanh(ops.slice(values.goft_angles ?? w, 0, 0, 1)), Math.PI));
          const shift = ops.gather(
            w,
            ops.ints(Array.from({ length: width }, (_, at) => at ^ (at + 1 < width ? 1 : 0))),
            1,
          );
          return values.goft_angles
            ? ops.add(ops.mul(w, cos), ops.mul(shift, ops.sub(1, cos)))
            : goftMethod.weight(w, values);
        },
      },
    }),
    /RᵀR − I[\s\S]*first axis/,
  ],
  "GOFT that turns by the opposite angles": [
    qgoftProof({
      algebraOnly,
      method: {
        ...goftMethod,
        weight: (w, values) =>
          goftMethod.weight(
            w,
            values.goft_angles ? { ...values, goft_angles: ops.neg(values.goft_angles) } : values,
          ),
      },
    }),
    /first axis/,
  ],
  "qGOFT without its penalty": [
    qgoftProof({ algebraOnly, method: { ...goftMethod, penalty: () => undefined } }),
    /penalty|penalised/,
  ],
  "SODA with a factor of the rotation turned": [
    sodaProof({
      steps: 0,
      method: {
        ...sodaMethod,
        weight: (w, values) => sodaMethod.weight(w, { ...values, soda_Q2: flipped(values.soda_Q2) }),
      },
    }),
    /W' against/,
  ],
  "SODA whose singular values may become negative": [
    sodaProof({
      steps: 0,
      method: {
        ...sodaMethod,
        weight(w, values) {
          // Without the spectrum, δ is added as it is.
          const rows = ops.mul(values.soda_basis as Value, ops.unsqueeze(values.soda_delta as Value, 1));
          const shifted = ops.add(w, ops.matmul(values.soda_U as Value, rows));
          const zero = ops.mul(values.soda_S as Value, 0);
          return sodaMethod.weight(shifted, { ...values, soda_delta: zero });
        },
      },
    }),
    /W' against/,
  ],
  "SODA's rotations left to the main optimiser": [
    sodaProof({ method: { ...sodaMethod, hooks: () => ({}) } }),
    /after training/,
  ],
  "steps along the gradient itself, off the manifold": [
    sodaProof({
      steps: 0,
      step(x, gradient, _, { lr }) {
        for (let at = 0; at < x.length; at++) x[at] = Number(x[at]) - lr * 0.01 * Number(gradient[at]);
      },
    }),
    /after 500 steps[\s\S]*symmetric/,
  ],
  "steps at a rate of their own": [
    sodaProof({ steps: 0, step: (x, g, state, own) => stiefelStep(x, g, state, { ...own, lr: 0.01 }) }),
    /rate of 0/,
  ],
  "concepts that all have the same directions": [
    orthogonalAdaptationProof({
      algebraOnly,
      basis: (width, own) => conceptBasis(width, { ...own, conceptId: "one" }),
    }),
    /columns that two concepts share/,
  ],
  "directions that are not made orthonormal": [
    orthogonalAdaptationProof({
      algebraOnly,
      basis: (width, own) => conceptBasis(width, { ...own, basis: "gaussian" }),
    }),
    /BᵀB − I/,
  ],
  "a registry whose blocks overlap": [
    orthogonalAdaptationProof({
      algebraOnly,
      method: {
        ...orthogonalAdaptationMethod,
        shared: (sites, own) =>
          orthogonalAdaptationMethod.shared(sites, { ...own, slot: Math.floor((own.slot ?? 0) / 2) }),
      },
    }),
    /ΔWᵢ·ΔWⱼᵀ/,
  ],
};

describe("a wrong implementation fails", () => {
  test.each(Object.entries(mutants))("%s", async (_, [proof, expected]) => {
    expect((await failures(proof)).join("\n")).toMatch(expected);
  });
});
