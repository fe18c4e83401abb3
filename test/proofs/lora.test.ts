import { describe, expect, test } from "vitest";
import { loraProof } from "../../proofs/lora.js";
import { holds } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { type LoraConfig, loraMethod, type Method } from "../../src/methods/index.js";

const run = async (method: Method<LoraConfig>) => {
  const checks = await loraProof({ method, steps: 1500, seeds: 10 }).run();
  return checks.filter((check) => !holds(check)).map(({ what }) => what);
};

test("the proof holds", async () => {
  expect(await run(loraMethod)).toEqual([]);
});

/** What a wrong implementation would compute; each must fail a check. */
describe("a wrong implementation fails", () => {
  const { forward, weight, tensors } = loraMethod;
  const timesRank = (config: LoraConfig): LoraConfig => ({ ...config, alpha: config.alpha * config.rank });
  const mutants: Readonly<Record<string, [Method<LoraConfig>, RegExp]>> = {
    "scale alpha instead of alpha / r": [
      {
        ...loraMethod,
        forward: (call, config) => forward(call, timesRank(config)),
        weight: (w, values, site, config) => weight(w, values, site, timesRank(config)),
      },
      /against W0|first step/,
    ],
    "rsLoRA without its square root": [
      {
        ...loraMethod,
        forward: (call, config) => forward(call, { ...config, rslora: false }),
        weight: (w, values, site, config) => weight(w, values, site, { ...config, rslora: false }),
      },
      /rsLoRA rank 64/,
    ],
    "A read as [in, r]": [
      {
        ...loraMethod,
        forward: (call, config) =>
          forward({ ...call, tensors: { ...call.tensors, lora_A: misread(call.tensors.lora_A) } }, config),
      },
      /branch against W0/,
    ],
    "merging with the opposite sign": [
      {
        ...loraMethod,
        weight: (w, values, site, config) => ops.sub(ops.mul(w, 2), weight(w, values, site, config)),
      },
      /merged against W0/,
    ],
    "A not trained from a useful start": [
      {
        ...loraMethod,
        tensors: (site, config) => {
          const specs = tensors(site, config);
          const a = specs.lora_A;
          return a
            ? { ...specs, lora_A: { ...a, init: () => new Float32Array(config.rank * site.inFeatures) } }
            : specs;
        },
      },
      /loss after/,
    ],
    "one rank too few": [
      {
        ...loraMethod,
        forward: (call, config) => forward({ ...call, tensors: withoutLast(call.tensors) }, config),
      },
      /loss after/,
    ],
  };

  test.each(Object.entries(mutants))("%s", async (_, [method, expected]) => {
    const failed = await run(method);
    expect(failed.join("\n")).toMatch(expected);
  });
});

type Tensors = Parameters<typeof loraMethod.weight>[1];

/** Numbers of `[r, in]` taken as `[in, r]`. */
function misread(a: Tensors[string] | undefined) {
  if (!a) throw new Error("no A");
  const [rank, width] = a.shape as [number, number];
  return ops.transpose(ops.reshape(a, [width, rank]), [1, 0]);
}

/** A with its last row zero. */
function withoutLast(values: Tensors): Tensors {
  const a = values.lora_A;
  if (!a) throw new Error("no A");
  const rank = a.shape[0] as number;
  const keep = ops.reshape(ops.cast(ops.less(ops.arange(rank), ops.ints([rank - 1])), "float32"), [rank, 1]);
  return { ...values, lora_A: ops.mul(a, keep) };
}
