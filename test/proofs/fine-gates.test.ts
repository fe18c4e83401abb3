import { expect, test } from "vitest";
import { fineGatesProof } from "../../proofs/fine-gates.js";
import { holds } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type FineGatesConfig, fineGatesMethod, type Method } from "../../src/methods/index.js";

const failures = async (method: Method<FineGatesConfig>, steps = 3000) => {
  const checks = await fineGatesProof({ method, steps, others: [] }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures(fineGatesMethod)).toEqual([]);
});

const changed = (change: Partial<FineGatesConfig>): Method<FineGatesConfig> => ({
  ...fineGatesMethod,
  penalty: (sites, config) => fineGatesMethod.penalty(sites, { ...config, ...change }),
});

const mutants: Readonly<Record<string, [Method<FineGatesConfig>, RegExp]>> = {
  "half of the target": [changed({ targetSparsity: 0.15 }), /asked for/],
  "gates counted with the noise's width": [changed({ sigma: 0.1 }), /asked for/],
  "gates that multiply outputs twice": [
    {
      ...fineGatesMethod,
      weight: (weight, values) =>
        fineGatesMethod.weight(ops.mul(fineGatesMethod.weight(weight, values), 0.5), values),
    },
    /above the head/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [method, expected]) => {
  expect((await failures(method, 500)).join("\n")).toMatch(expected);
});
