import { expect, test } from "vitest";
import { neuroadaProof } from "../../proofs/neuroada.js";
import { holds } from "../../proofs/proof.js";
import { type Method, type NeuroadaConfig, neuroadaMethod } from "../../src/methods/index.js";

const failures = async (method: Method<NeuroadaConfig>) => {
  const checks = await neuroadaProof({ method, steps: 0 }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await failures(neuroadaMethod)).toEqual([]);
});

/** Places chosen otherwise. */
const choosing = (place: (row: number, at: number) => number): Method<NeuroadaConfig> => ({
  ...neuroadaMethod,
  tensors(site, config) {
    const specs = neuroadaMethod.tensors(site, config);
    const [rows, count] = specs.neuroada_columns.shape;
    const init = () =>
      Int32Array.from(
        { length: rows * count },
        (_, at) => place(Math.floor(at / count), at % count) % site.inFeatures,
      );
    return { ...specs, neuroada_columns: { ...specs.neuroada_columns, init } };
  },
});

const mutants: Readonly<Record<string, [Method<NeuroadaConfig>, RegExp]>> = {
  "the first weights of every row": [choosing((_, at) => at), /not among their row/],
  "one place per row only": [choosing((row) => row), /not among their row|changed entries$/],
  "the smallest weights": [
    {
      ...neuroadaMethod,
      tensors: (site, config) => neuroadaMethod.tensors(site, { ...config, select: "reverse" }),
    },
    /not among their row/,
  ],
  "one connection too few": [
    {
      ...neuroadaMethod,
      tensors: (site, config) =>
        neuroadaMethod.tensors(site, {
          ...config,
          connections: Math.min(config.connections, site.inFeatures) - 1,
        }),
    },
    /full fine-tuning/,
  ],
};

test.each(Object.entries(mutants))("%s: fails", async (_, [method, expected]) => {
  expect((await failures(method)).join("\n")).toMatch(expected);
});
