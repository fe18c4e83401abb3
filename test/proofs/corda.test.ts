import { expect, test } from "vitest";
import { cordaProof } from "../../proofs/corda.js";
import { failing } from "../../proofs/proof.js";
import { type InitContext, type LoraConfig, loraMethod, type Method } from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(cordaProof({ seeds: [1] }))).toEqual([]);
}, 60_000);

/** LoRA whose starts are those of `change`. */
const startingWith = (
  configOf: (config: LoraConfig) => LoraConfig,
  contextOf = (context: InitContext): InitContext => context,
): Method<LoraConfig> => ({
  ...loraMethod,
  tensors: (site, config) =>
    Object.fromEntries(
      Object.entries(loraMethod.tensors(site, configOf(config))).map(([key, spec]) => [
        key,
        { ...spec, init: (context) => spec.init(contextOf(context)) },
      ]),
    ),
});

const swapped: Record<string, LoraConfig["init"]> = { corda: "corda_kpm", corda_kpm: "corda" };
const mutants: Readonly<Record<string, [Method<LoraConfig>, RegExp]>> = {
  "modes that are swapped": [
    startingWith((config) => ({ ...config, init: swapped[String(config.init)] ?? config.init })),
    /dropping|PiSSA/,
  ],
  "a covariance that is not looked at": [
    startingWith(
      (config) => config,
      (context) => ({
        ...context,
        statistic: async (name) =>
          (await context.statistic(name)).map((_, at) => (at % (context.site.inFeatures + 1) === 0 ? 1 : 0)),
      }),
    ),
    /dropping/,
  ],
  "factors that ignore the scale": [
    startingWith((config) => ({ ...config, alpha: config.rank })),
    /all components/,
  ],
};

test.each(Object.entries(mutants))(
  "fails with %s",
  async (_, [method, expected]) => {
    expect((await failing(cordaProof({ method, seeds: [] }))).join("\n")).toMatch(expected);
  },
  60_000,
);
