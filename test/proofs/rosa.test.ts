import { expect, test } from "vitest";
import { holds } from "../../proofs/proof.js";
import { rosaProof } from "../../proofs/rosa.js";
import { type Method, type RosaConfig, rosaMethod } from "../../src/methods/index.js";

const failures = async (method: Method<RosaConfig>) => {
  const checks = await rosaProof({ method, steps: 900, alone: true }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures(rosaMethod)).toEqual([]);
});

const { hooks, ...rest } = rosaMethod;

const mutants: Readonly<Record<string, [Method<RosaConfig>, RegExp]>> = {
  "places that are never chosen": [rest, /planted entries/],
  "the smallest gradients": [
    {
      ...rosaMethod,
      hooks(context) {
        const own = hooks(context);
        return {
          ...own,
          afterBackward(at, gradients, weights) {
            const turned = [...weights].map(
              ([name, data]) => [name, data.map((value) => 1 / (value || 1e-9))] as const,
            );
            return own.afterBackward?.(at, gradients, new Map(turned));
          },
        };
      },
    },
    /planted entries/,
  ],
  "a low-rank part without its scale": [
    { ...rosaMethod, forward: (call, config) => rosaMethod.forward(call, { ...config, alpha: config.rank }) },
    /against LoRA/,
  ],
  "a sparse part that is not trained": [
    {
      ...rosaMethod,
      hooks: (context) => ({ ...hooks(context), isTrained: (name) => !name.endsWith("rosa_values") }),
    },
    /mean square error/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [method, expected]) => {
  expect((await failures(method)).join("\n")).toMatch(expected);
});
