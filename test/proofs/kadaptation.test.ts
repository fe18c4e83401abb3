import { expect, test } from "vitest";
import { kadaptationProof } from "../../proofs/kadaptation.js";
import { holds } from "../../proofs/proof.js";
import { ops, type Value } from "../../src/graph/index.js";
import { type KadaptationConfig, kadaptationMethod, type Method } from "../../src/methods/index.js";

const failures = async (method: Method<KadaptationConfig>) =>
  (await kadaptationProof({ method, steps: 0 }).run())
    .filter((check) => !holds(check))
    .map(({ what }) => what);

test("the proof holds", async () => {
  expect(await failures(kadaptationMethod)).toEqual([]);
});

const { weight, tensors } = kadaptationMethod;
const mutants: Readonly<Record<string, readonly [Method<KadaptationConfig>, RegExp]>> = {
  "both factors start at zero, as in the authors' code": [
    {
      ...kadaptationMethod,
      tensors(site, own) {
        const { kadaptation_u: u, ...rest } = tensors(site, own);
        const zero = () => new Float32Array(site.outFeatures * own.rank);
        return u ? { ...rest, kadaptation_u: { ...u, init: zero } } : rest;
      },
    },
    /moves at the first/,
  ],
  "summands in another order on one side": [
    {
      ...kadaptationMethod,
      weight(w, values, site, own) {
        const u = values.kadaptation_u as Value;
        const order = Array.from({ length: own.summands }, (_, at) => (at + 1) % own.summands);
        return weight(w, { ...values, kadaptation_u: ops.gather(u, ops.ints(order), 0) }, site, own);
      },
    },
    /W' against/,
  ],
  "query and value share their left sides": [
    {
      ...kadaptationMethod,
      shared: (sites, own) =>
        kadaptationMethod.shared(
          sites.filter(({ path }) => path.endsWith(".q")),
          own,
        ),
    },
    /ViT-B/,
  ],
  "left sides of rank 1 whatever is asked": [
    {
      ...kadaptationMethod,
      weight(w, values, site, own) {
        const first = (name: string, axis: number) => ops.slice(values[name] as Value, axis, 0, 1);
        return weight(
          w,
          {
            ...values,
            kadaptation_left_q: first("kadaptation_left_q", 2),
            kadaptation_right_q: first("kadaptation_right_q", 1),
          },
          site,
          own,
        );
      },
    },
    /W' against[\s\S]*rank 2/,
  ],
};

test.each(Object.entries(mutants))("%s fails", async (_, [method, expected]) => {
  expect((await failures(method)).join("\n")).toMatch(expected);
});
