import { expect, test } from "vitest";
import { mapProof } from "../../proofs/map.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import {
  type Adaptation,
  lora,
  type MapConfig,
  type MapOptions,
  type Method,
  map,
  type SiteConfig,
} from "../../src/methods/index.js";

test("the proof holds", async () => {
  expect(await failing(mapProof())).toEqual([]);
}, 60_000);

type Inner = Adaptation<SiteConfig>;
const changed = (change: (method: Method<MapConfig>) => Partial<Method<MapConfig>>) => {
  return (inner: Inner, options?: MapOptions): Adaptation<MapConfig> => {
    const { method, config } = map(inner, options);
    return { method: { ...method, ...change(method) }, config };
  };
};

const mutants: Readonly<
  Record<string, [(inner: Inner, options?: MapOptions) => Adaptation<MapConfig>, RegExp]>
> = {
  "no normalisation of the update": [
    changed(() => ({
      forward: () => undefined,
      weight: (w, { lora_A: a, lora_B: b, kr_v: v, map_alpha: alpha }) =>
        a && b && alpha ? ops.gemm(b, a, ops.mul(w, ops.add(alpha, 1))) : v ? w : ops.mul(w, 1.5),
    })),
    /tripled|start|\|W'/,
  ],
  "a base whose size is fixed": [
    changed((method) => ({
      forward: () => undefined,
      weight: (w, values, site, config) =>
        method.weight(w, { ...values, map_alpha: ops.scalar(0) }, site, config),
    })),
    /size of the base|error of LoMAP|\|W'/,
  ],
  "a start with a step": [
    changed((method) => ({
      weight: (w, values, site, config) =>
        method.weight(w, values, site, { ...config, init: "lora", betaInit: 0.5 }),
    })),
    /start/,
  ],
};

test.each(Object.entries(mutants))("fails with %s", async (_, [wrap, expected]) => {
  expect((await failing(mapProof({ wrap, steps: 0 }))).join("\n")).toMatch(expected);
});

test("an update that is no sum is refused", () => {
  expect(() => map(lora({ dora: true }))).toThrow(/does not/);
});
