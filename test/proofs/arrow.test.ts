import { expect, test } from "vitest";
import { type ArrowProofOptions, arrowProof } from "../../proofs/arrow.js";
import { failing } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type ArrowMethod, arrowOver, type SiteCall } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(arrowProof())).toEqual([]);
}, 60_000);

/** The method called in another way. */
const called =
  (change: (call: SiteCall) => SiteCall): NonNullable<ArrowProofOptions["change"]> =>
  (method: ArrowMethod) => ({
    ...method,
    forward: (call, config) => method.forward?.(change(call), config),
  });
const prototypesOf = (change: (prototypes: Value) => Value) =>
  called((call) => ({
    ...call,
    tensors: { ...call.tensors, prototypes: change(call.tensors.prototypes as Value) },
  }));

const mutants: Readonly<Record<string, [NonNullable<ArrowProofOptions["change"]>, RegExp]>> = {
  "routes of the next expert": [
    prototypesOf((p) => ops.concat([ops.slice(p, 0, 1), ops.slice(p, 0, 0, 1)], 0)),
    /go to the expert[\s\S]*plain arithmetic[\s\S]*by Arrow with one expert/,
  ],
  "directions of half their length": [prototypesOf((p) => ops.mul(p, 0.5)), /plain arithmetic/],
  "directions drawn at random": [
    (method) => ({
      ...method,
      tensors: (site, config) => ({
        ...method.tensors(site, config),
        prototypes: {
          ...(method.tensors(site, config).prototypes as NonNullable<
            ReturnType<typeof method.tensors>[string]
          >),
          init: ({ normal }) =>
            normal(method.experts.length * site.inFeatures, 1 / Math.sqrt(site.inFeatures)),
        },
      }),
    }),
    /least cosine of an expert's direction[\s\S]*go to the expert/,
  ],
  "general adapters that stay": [
    ({ experts }) => arrowOver(experts),
    /share taken off[\s\S]*outputs against those without it/,
  ],
  "one choice for all rows": [
    called((call) => ({
      ...call,
      x: ops.add(ops.mul(call.x, 0), ops.reduceMean(call.x, [0])),
    })),
    /go to the expert[\s\S]*one row alone/,
  ],
  "experts that are trained": [
    (method) => ({
      ...method,
      shared: (sites, config) =>
        Object.fromEntries(
          Object.entries(method.shared?.(sites, config) ?? {}).map(([key, spec]) => [
            key,
            { ...spec, trainable: true },
          ]),
        ),
    }),
    /tensors that are trained/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [change, expected]) => {
    expect((await failing(arrowProof({ change }))).join("\n")).toMatch(expected);
  },
  60_000,
);
