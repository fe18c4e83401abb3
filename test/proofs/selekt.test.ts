import { expect, test } from "vitest";
import { holds } from "../../proofs/proof.js";
import { selektProof } from "../../proofs/selekt.js";
import { patchOf, selekt } from "../../src/methods/index.js";
import { keepOnly } from "../../src/methods/sparse/places.js";

const failures = async (make: typeof selekt, steps = 1050) => {
  const checks = await selektProof({ make, steps }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures(selekt)).toEqual([]);
});

const mutants: Readonly<Record<string, [typeof selekt, RegExp, number?]>> = {
  "one projection, at the end": [
    (base, options) => selekt(base, { ...options, every: 1_000_000 }),
    /above one trim/,
  ],
  "twice the share": [
    (base, options) => selekt(base, { ...options, alpha: Math.min(1, 2 * (options?.alpha ?? 0)) }),
    /beyond the share/,
    0,
  ],
  "places chosen once": [
    async (base, options) => {
      const model = await selekt(base, options);
      const own = model.trainingHooks?.() ?? {};
      const starts = new Map(
        [...model.unfrozen].map(([name, { tensor }]) => [name, (tensor.data as Float32Array).slice()]),
      );
      let places: Map<string, Uint32Array> | undefined;
      return {
        ...model,
        trainingHooks: () => ({
          async afterUpdate(at) {
            for (const [name, kept] of places ?? [])
              keepOnly(at.params.get(name) as Float32Array, kept, starts.get(name));
            await own.afterUpdate?.(at);
            if (at.step !== options?.every) return;
            const { changes } = await patchOf(model);
            places = new Map([...changes].map(([name, change]) => [name, change.places]));
          },
        }),
      };
    },
    /first projection had not/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [make, expected, steps]) => {
  expect((await failures(make, steps)).join("\n")).toMatch(expected);
});
