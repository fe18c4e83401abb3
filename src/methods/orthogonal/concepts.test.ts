import { expect, test } from "vitest";
import {
  type AdaptedLm,
  adapt,
  conceptBasis,
  lora,
  merge,
  mergeConcepts,
  type OrthogonalAdaptationConfig,
  orthogonalAdaptation,
  overlapReport,
  setActive,
  setScale,
} from "../index.js";
import { baseModel, probeLogits, product, randomise, relativeDifference } from "../testing/fixtures.js";

const TARGETS = ["q_proj", "v_proj"];
type Options = Partial<OrthogonalAdaptationConfig>;

async function concepts(...all: readonly Options[]): Promise<AdaptedLm> {
  let model: Awaited<ReturnType<typeof baseModel>> = await baseModel("llama");
  for (const [at, options] of all.entries()) {
    const adaptation = orthogonalAdaptation({ rank: 4, targets: TARGETS, ...options });
    model = await adapt(model, adaptation, { name: `concept-${at}` });
  }
  return randomise(model as AdaptedLm, 4, 0.1);
}

const registry = (slot: number): Options => ({ basis: "registry", slot });

test("directions are orthonormal, the same for everybody, and differ by concept", () => {
  const { config } = orthogonalAdaptation({ rank: 6, conceptId: "cat" });
  const basis = conceptBasis(40, config);
  const turned = Float32Array.from(
    { length: 240 },
    (_, at) => basis[(at % 6) * 40 + Math.floor(at / 6)] as number,
  );
  product(basis, turned, [6, 40, 6]).forEach((value, at) => {
    expect(value).toBeCloseTo(at % 7 === 0 ? 1 : 0, 6);
  });
  expect(conceptBasis(40, config)).toEqual(basis);
  expect(conceptBasis(40, { ...config, conceptId: "dog" })).not.toEqual(basis);
  expect(conceptBasis(40, { ...config, basisSeed: 1 })).not.toEqual(basis);
  // Pinned: other machines must find the same numbers.
  expect(basis[0]).toBeCloseTo(-0.0727363303, 6);
});

test("concepts of a registry do not overlap; merged in any order they are the same, taken off they are gone", async () => {
  const model = await concepts(registry(0), registry(1), registry(2));
  expect(overlapReport(model).length).toBe(3);
  for (const { overlap } of overlapReport(model)) expect(overlap).toBeLessThan(1e-6);
  const merged = await mergeConcepts(model);
  const reversed = await mergeConcepts(setActive(model, [...model.active].reverse()));
  expect(relativeDifference(await probeLogits(merged), await probeLogits(reversed))).toBeLessThan(1e-5);
  const again = await adaptedAgain(merged, model);
  const gone = await mergeConcepts(again, { "concept-0": -1, "concept-1": -1, "concept-2": -1 });
  expect(relativeDifference(await probeLogits(gone), await probeLogits(model.base))).toBeLessThan(1e-5);
});

/** The same adapters on another base. */
async function adaptedAgain(base: Awaited<ReturnType<typeof baseModel>>, { adapters }: AdaptedLm) {
  let model = base;
  for (const { name, adaptation } of adapters.values()) model = await adapt(model, adaptation, { name });
  for (const [name, { tensor }] of model.parameters)
    for (const adapter of adapters.values()) {
      const own = adapter.parameters.get(name);
      if (own && own !== adapter.gate) (tensor.data as Float32Array).set(own.tensor.data as Float32Array);
    }
  return model as AdaptedLm;
}

test("strengths count for the merge alone", async () => {
  const model = await concepts({ conceptId: "cat" }, { conceptId: "dog" });
  setScale(model, "concept-0", 0.3);
  const merged = await mergeConcepts(model, { "concept-1": 0.5 });
  expect(model.adapters.get("concept-0")?.gate.tensor.data[0]).toBeCloseTo(0.3);
  setScale(model, "concept-0", 1);
  setScale(model, "concept-1", 0.5);
  const expected = await probeLogits(await merge(model));
  expect(relativeDifference(await probeLogits(merged), expected)).toBeLessThan(1e-6);
});

test.each<readonly [string, Options, Options]>([
  ["seeds", { conceptId: "cat" }, { conceptId: "dog", basisSeed: 1 }],
  ["names", { conceptId: "cat" }, { conceptId: "cat" }],
  ["slots", registry(1), registry(1)],
  ["slots of other ranks", registry(1), { basis: "registry", slot: 2, rank: 2 }],
  ["kinds", { conceptId: "cat" }, { conceptId: "dog", basis: "gaussian" }],
])("concepts that collide are refused: %s", async (_, one, other) => {
  await expect(mergeConcepts(await concepts(one, other))).rejects.toMatchObject({ code: "adapter-invalid" });
});

test("a concept needs a name or a slot, and other methods are not concepts", async () => {
  for (const options of [
    {},
    { basis: "registry" },
    { basis: "registry", slot: 99 },
    { rank: 9999, conceptId: "x" },
  ] as const)
    await expect(concepts(options)).rejects.toMatchObject({ code: "config-invalid" });
  const mixed = await adapt(await concepts({ conceptId: "cat" }), lora({ rank: 2 }), { name: "lora" });
  expect(() => overlapReport(mixed)).toThrow(/lora/);
});
