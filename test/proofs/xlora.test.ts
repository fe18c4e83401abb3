import { expect, test } from "vitest";
import { failing } from "../../proofs/proof.js";
import { type XloraProofOptions, xloraProof } from "../../proofs/xlora.js";
import { ops, type Value } from "../../src/graph/index.js";
import type { SiteCall, XloraMethod } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(xloraProof())).toEqual([]);
}, 60_000);

/** The method called in another way. */
const called =
  (change: (call: SiteCall) => SiteCall): NonNullable<XloraProofOptions["change"]> =>
  (method: XloraMethod) => ({
    ...method,
    forward: (call, config) => method.forward?.(call.hidden ? change(call) : call, config),
  });

const mutants: Readonly<Record<string, [NonNullable<XloraProofOptions["change"]>, RegExp]>> = {
  "a gate that sees the same everywhere": [
    called((call) => ({ ...call, hidden: ops.add(ops.zerosLike(call.hidden as Value), 1) })),
    /accuracy of the gate/,
  ],
  "one gate for all rows": [
    called(({ hidden, ...call }) => ({
      ...call,
      hidden: ops.add(ops.zerosLike(hidden as Value), ops.reduceMean(hidden as Value, [0])),
    })),
    /plain arithmetic[\s\S]*rows of one domain alone/,
  ],
  "experts at half their strength": [
    (method) => ({
      ...method,
      forward: (call, config) => method.forward?.(call, { ...config, globalWeight: 0.5 }),
    }),
    /mean of the experts/,
  ],
  "weights that do not add up to 1": [
    (method) => ({
      ...method,
      forward: (call, config) => method.forward?.(call, { ...config, softmax: false }),
    }),
    /mean of the experts[\s\S]*plain arithmetic/,
  ],
  "experts that are trained too": [
    (method) => ({
      ...method,
      shared: (sites, config) => method.shared?.(sites, { ...config, trainExperts: true }) ?? {},
    }),
    /change of the experts/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [change, expected]) => {
    expect((await failing(xloraProof({ change }))).join("\n")).toMatch(expected);
  },
  60_000,
);
