import { expect, test } from "vitest";
import { polyProof } from "../../proofs/poly.js";
import { failing } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type Method, type PolyConfig, polyMethod, type TensorValues } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(polyProof())).toEqual([]);
}, 60_000);

const { forward, weight } = polyMethod;
/** The method over other tensors. */
const over = (change: (tensors: TensorValues) => TensorValues): Method<PolyConfig> => ({
  ...polyMethod,
  forward: (call, config) => forward({ ...call, tensors: change(call.tensors) }, config),
  weight: (w, tensors, site, config) => weight(w, change(tensors), site, config),
});

const mutants: Readonly<Record<string, [Method<PolyConfig>, RegExp]>> = {
  "a task that is always the first": [
    over((tensors) => ({
      ...tensors,
      poly_task: ops.mul(tensors.poly_task as Value, ops.scalar(0, "int64")),
    })),
    /plain arithmetic[\s\S]*two tasks are apart/,
  ],
  "skills in equal parts, nearly": [
    over((tensors) => ({ ...tensors, poly_logits: ops.mul(tensors.poly_logits as Value, 1e-3) })),
    /plain arithmetic/,
  ],
  "an allocation that is not sampled": [
    { ...polyMethod, forward: (call, config) => forward({ ...call, training: false }, config) },
    /sampled skill wins/,
  ],
  "an update that is not divided by the rank": [
    over((tensors) => ({ ...tensors, poly_lora_B: ops.mul(tensors.poly_lora_B as Value, 2) })),
    /plain arithmetic/,
  ],
};

test("a task that is always the first learns no three", async () => {
  const [method] = mutants["a task that is always the first"] as [Method<PolyConfig>, RegExp];
  expect(await failing(polyProof({ method }))).toContain(
    "error left, the worst task of three that share skills",
  );
}, 60_000);

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(polyProof({ method, learning: false }))).join("\n")).toMatch(expected);
  },
  60_000,
);
