import { beftProof, bitfitProof, lnTuningProof } from "../../proofs/vectors.js";
import { ops, type Value } from "../../src/graph/index.js";
import { beftMethod, bitfitMethod, lnTuningMethod } from "../../src/methods/index.js";
import { proves } from "./mutants.js";

proves([bitfitProof(), beftProof(), lnTuningProof()], {
  "BitFit that trains scales too": [
    bitfitProof({
      method: {
        ...bitfitMethod,
        whole: { of: "bias", takes: ({ leaf, isNorm }) => leaf === "bias" || isNorm },
      },
    }),
    /trained numbers[\s\S]*miss of a scale of the norm/,
  ],
  "BitFit that leaves norms alone": [
    bitfitProof({
      method: {
        ...bitfitMethod,
        whole: { of: "bias", takes: ({ leaf, isNorm }) => leaf === "bias" && !isNorm },
      },
    }),
    /trained numbers[\s\S]*miss of a shift of the norm[\s\S]*miss of a shift of the map without/,
  ],
  "BEFT that wants a bias to be there": [
    beftProof({
      method: {
        ...beftMethod,
        tensors: (site) => {
          const own = beftMethod.tensors(site);
          return { beft_bias: { ...own.beft_bias, trainable: site.hasBias } };
        },
      },
    }),
    /both maps: trained numbers[\s\S]*both maps: what 300 steps miss of a shift of the map without/,
  ],
  "BEFT that adds at another strength": [
    beftProof({
      method: {
        ...beftMethod,
        biasDelta: ({ beft_bias: added }) => ops.mul(added as Value, 2),
        forward: (call) =>
          beftMethod.forward({
            ...call,
            tensors: { beft_bias: ops.mul(call.tensors.beft_bias as Value, 2) },
          }),
      },
    }),
    /outputs against the formula/,
  ],
  "BEFT that is there before it has learnt": [
    beftProof({
      method: {
        ...beftMethod,
        tensors: (site) => ({
          beft_bias: {
            ...beftMethod.tensors(site).beft_bias,
            init: () => new Float32Array(site.outFeatures).fill(0.1),
          },
        }),
      },
    }),
    /change at the start/,
  ],
  "LN tuning of scales alone": [
    lnTuningProof({
      method: {
        ...lnTuningMethod,
        whole: { of: "norm", takes: ({ isNorm, leaf }) => isNorm && leaf === "weight" },
      },
    }),
    /trained numbers[\s\S]*miss of a shift of the norm/,
  ],
  "LN tuning that takes biases of maps": [
    lnTuningProof({
      method: {
        ...lnTuningMethod,
        whole: { of: "norm", takes: ({ isNorm, leaf }) => isNorm || leaf === "bias" },
      },
    }),
    /trained numbers[\s\S]*miss of a shift of the map with a bias/,
  ],
});
