import { expect, test } from "vitest";
import { montecloraProof, veloraProof } from "../../proofs/lora-variants.js";
import { failing } from "../../proofs/proof.js";
import { ops } from "../../src/graph/index.js";
import { dirichletDivergence, montecloraMethod, veloraMethod } from "../../src/methods/index.js";

test("VeLoRA's proof holds", async () => {
  expect(await failing(veloraProof())).toEqual([]);
});

test("MonteCLoRA's proof holds", async () => {
  expect(await failing(montecloraProof())).toEqual([]);
}, 60_000);

const wrong = [
  [
    "VeLoRA with whole inputs",
    veloraProof({
      ...veloraMethod,
      forward: (call, config) => veloraMethod.forward({ ...call, training: false }, config),
    }),
    /gradient of A against that of projected inputs[\s\S]*memory/,
  ],
  [
    "VeLoRA whose forward pass is compressed as well",
    veloraProof({
      ...veloraMethod,
      forward: (call, config) =>
        veloraMethod.forward({ ...call, x: ops.mul(call.x, call.training ? 0.9 : 1) }, config),
    }),
    /forward pass while training/,
  ],
  [
    "VeLoRA with inputs given back at half their length",
    veloraProof({
      ...veloraMethod,
      forward: (call, config) => veloraMethod.forward(call, { ...config, reconstruction: 0.5 }),
    }),
    /gradient of A against that of projected inputs/,
  ],
  [
    "MonteCLoRA that samples outside training",
    montecloraProof({
      ...montecloraMethod,
      forward: (call, config) => montecloraMethod.forward({ ...call, training: true }, config),
    }),
    /outside training/,
  ],
  [
    "MonteCLoRA with one sample",
    montecloraProof({
      ...montecloraMethod,
      forward: (call, config) =>
        montecloraMethod.forward(
          {
            ...call,
            tensors: {
              ...call.tensors,
              expert_weights_prior: ops.slice(call.tensors.expert_weights_prior as never, 0, 0, 1),
            },
          },
          { ...config, samples: 1 },
        ),
    }),
    /variance of 4 samples over that of 16/,
  ],
  [
    "MonteCLoRA whose samples have equal weights",
    montecloraProof({
      ...montecloraMethod,
      forward: (call, config) =>
        montecloraMethod.forward(
          {
            ...call,
            noise: (like, kind, key) => ops.mul(call.noise(like, kind, key), key === "weights" ? 0 : 1),
          },
          config,
        ),
    }),
    /weighted mean of 8 samples/,
  ],
  [
    "MonteCLoRA without the samples' divergence",
    montecloraProof({
      ...montecloraMethod,
      forward: (call, config) => montecloraMethod.forward({ ...call, addLoss: () => {} }, config),
    }),
    /scale of the variances/,
  ],
  [
    "MonteCLoRA with another prior",
    montecloraProof({
      ...montecloraMethod,
      penalty: (sites, config) => montecloraMethod.penalty(sites, { ...config, dirichletPrior: 1.4 }),
    }),
    /concentration/,
  ],
  [
    "a divergence without its last term",
    montecloraProof(montecloraMethod, (alpha, prior) => ops.add(dirichletDivergence(alpha, prior), 0.1)),
    /divergence of the prior from itself/,
  ],
] as const;

test.each(wrong)(
  "%s: fails",
  async (_, proof, expected) => {
    expect((await failing(proof)).join("\n")).toMatch(expected);
  },
  60_000,
);
