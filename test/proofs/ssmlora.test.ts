import { expect, test } from "vitest";
import { failing } from "../../proofs/proof.js";
import { ssmloraProof } from "../../proofs/ssmlora.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type Method, type SsmloraConfig, ssmloraMethod } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(ssmloraProof())).toEqual([]);
}, 60_000);

const { forward } = ssmloraMethod;
const mutants: Readonly<Record<string, [Method<SsmloraConfig>, RegExp]>> = {
  "no state": [
    { ...ssmloraMethod, forward: (call, config) => forward({ ...call, pass: new Map() }, config) },
    /recurrence/,
  ],
  "C and D swapped": [
    {
      ...ssmloraMethod,
      forward: (call, config) => {
        const { ssm_C: c, ssm_D: d } = call.tensors as Record<string, Value>;
        return forward(
          { ...call, tensors: { ...call.tensors, ssm_C: d as Value, ssm_D: c as Value } },
          config,
        );
      },
    },
    /recurrence/,
  ],
  "alpha divided by the rank": [
    {
      ...ssmloraMethod,
      forward: (call, config) => forward(call, { ...config, alpha: config.alpha / config.rank }),
    },
    /LoRA|recurrence/,
  ],
  "a state that mixes rows": [
    {
      ...ssmloraMethod,
      forward(call, config) {
        const out = forward(call, config);
        const pass = call.pass.get("");
        if (pass) call.pass.set("", ops.add(pass, ops.reduceMean(pass, [0])));
        return out;
      },
    },
    /row alone/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(ssmloraProof({ method }))).join("\n")).toMatch(expected);
  },
  60_000,
);
