import { expect, test } from "vitest";
import { lilyProof } from "../../proofs/lily.js";
import { failing } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type LilyConfig, lilyMethod, type Method } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(lilyProof())).toEqual([]);
}, 60_000);

const { forward, shared } = lilyMethod;
const mutants: Readonly<Record<string, [Method<LilyConfig>, RegExp]>> = {
  "experts in equal parts, nearly": [
    {
      ...lilyMethod,
      forward: (call, config) =>
        forward(
          {
            ...call,
            tensors: { ...call.tensors, lily_router: ops.mul(call.tensors.lily_router as Value, 1e-3) },
          },
          config,
        ),
    },
    /plain arithmetic/,
  ],
  "a router that looks at the first row": [
    {
      ...lilyMethod,
      forward(call, config) {
        const first = ops.cast(
          ops.equal(ops.cumSum(ops.reduceSum(ops.add(ops.mul(call.x, 0), 1), [1], false), 0), 12),
          "float32",
        );
        return forward({ ...call, mask: first }, config);
      },
    },
    /outputs against plain arithmetic/,
  ],
  "every module with an A of its own": [
    { ...lilyMethod, shared: (sites, config) => shared(sites, { ...config, stride: 1 }) },
    /trained numbers/,
  ],
  "A shared by all": [
    { ...lilyMethod, shared: (sites, config) => shared(sites, { ...config, stride: 100 }) },
    /trained numbers/,
  ],
  "the scale over the rank": [
    {
      ...lilyMethod,
      forward: (call, config) => forward(call, { ...config, scale: config.scale / config.rank }),
    },
    /plain arithmetic/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(lilyProof({ method }))).join("\n")).toMatch(expected);
  },
  60_000,
);
