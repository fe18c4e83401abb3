import { expect, test } from "vitest";
import { failing, type Proof } from "../../proofs/proof.js";
import type { Method, SiteConfig, SiteShape, TensorValues } from "../../src/methods/index.js";

/** A change that makes an implementation wrong. */
export interface Alteration<C extends SiteConfig> {
  values?(values: TensorValues, site: SiteShape, config: C): TensorValues;
  config?(config: C): C;
  /** What is left as it was. Default: nothing. */
  readonly keeps?: "weight" | "forward";
}

/** A method whose mathematics reads other tensors, or another configuration, than it was given. */
export function altered<C extends SiteConfig>(method: Method<C>, change: Alteration<C>): Method<C> {
  const { values = (same) => same, config = (same) => same, keeps } = change;
  const { forward, weight } = method;
  return {
    ...method,
    ...(keeps !== "weight" && {
      weight: (w, own, site, c) => weight.call(method, w, values(own, site, c), site, config(c)),
    }),
    ...(keeps !== "forward" &&
      forward && {
        forward: (call, c) =>
          forward.call(method, { ...call, tensors: values(call.tensors, call.site, c) }, config(c)),
      }),
  };
}

/** A method that trains other tensors, of a site or shared, than it should. */
export function training<C extends SiteConfig>(
  method: Method<C>,
  trainable: Readonly<Record<string, boolean>>,
): Method<C> {
  const changed = <S extends { readonly trainable: boolean }>(specs: Readonly<Record<string, S>>) =>
    Object.fromEntries(
      Object.entries(specs).map(([key, spec]) => [
        key,
        { ...spec, trainable: trainable[key] ?? spec.trainable },
      ]),
    );
  const { shared } = method;
  return {
    ...method,
    tensors: (site, config) => changed(method.tensors(site, config)),
    ...(shared && { shared: (sites, config) => changed(shared.call(method, sites, config)) }),
  };
}

/** Wrong implementations, each with the checks that must fail. */
export type Mutants = Readonly<Record<string, readonly [Proof, RegExp]>>;

/** The proofs hold, and each mutant fails what it must. */
export function proves(proofs: readonly Proof[], mutants: Mutants, timeout = 60_000): void {
  test.each(proofs)(
    "$name: the proof holds",
    async (proof) => {
      expect(await failing(proof)).toEqual([]);
    },
    timeout,
  );
  test.each(Object.entries(mutants))(
    "fails with %s",
    async (_, [proof, expected]) => {
      expect((await failing(proof)).join("\n")).toMatch(expected);
    },
    timeout,
  );
}
