import { expect, test } from "vitest";
import { elaloraProof } from "../../proofs/elalora.js";
import { failing } from "../../proofs/proof.js";
import { type ElaloraConfig, elaloraMethod, type HookContext, type Method } from "../../src/methods/index.js";

const run = (method: Method<ElaloraConfig>) => failing(elaloraProof({ method, seeds: [3] }));

test("the proof holds", async () => {
  expect(await run(elaloraMethod)).toEqual([]);
}, 60_000);

const { hooks, ...fixed } = elaloraMethod;

/** Scores that say the opposite: what matters most goes. */
function reversed(context: HookContext<ElaloraConfig>) {
  const own = hooks(context);
  return {
    ...own,
    afterBackward(
      at: Parameters<NonNullable<typeof own.afterBackward>>[0],
      gradients: ReadonlyMap<string, Float32Array>,
      weights: ReadonlyMap<string, Float32Array>,
    ) {
      const turned = [...gradients].map(
        ([name, data]) => [name, data.map((value) => 1 / (value || 1e-9))] as const,
      );
      return own.afterBackward?.(at, new Map(turned), weights);
    },
  };
}

const mutants: Readonly<Record<string, [Method<ElaloraConfig>, RegExp]>> = {
  "components that never move": [fixed, /rank where/],
  "reversed scores": [{ ...elaloraMethod, hooks: reversed }, /rank where|error/],
  "a scale by the rank that is left": [
    {
      ...elaloraMethod,
      weight: (w, values, site, config) =>
        elaloraMethod.weight(w, values, site, { ...config, alpha: config.alpha / 2 }),
    },
    /formula/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await run(method)).join("\n")).toMatch(expected);
  },
  60_000,
);
