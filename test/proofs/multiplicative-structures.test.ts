import { ia3Proof, oftProof, roadProof } from "../../proofs/multiplicative-structures.js";
import { ops, type Value } from "../../src/graph/index.js";
import { ia3Method, oftMethod, roadMethod } from "../../src/methods/index.js";
import { altered, proves } from "./mutants.js";

const learns = false;

proves([ia3Proof(), roadProof(), oftProof()], {
  "(IA)³ that leaves biases alone": [
    ia3Proof({
      method: {
        ...ia3Method,
        biasDelta: () => undefined,
        forward(call) {
          const { y, bias, perFeature, tensors } = call;
          return tensors.ia3_l && bias
            ? ops.add(ops.mul(ops.sub(y, bias), perFeature(tensors.ia3_l)), bias)
            : ia3Method.forward(call);
        },
      },
    }),
    /outputs: forward pass[\s\S]*outputs: the same of the bias/,
  ],
  "(IA)³ that scales outputs only": [
    ia3Proof({
      learns,
      method: {
        ...ia3Method,
        tensors: (site, config) => ia3Method.tensors({ ...site, path: "k_proj" }, config),
      },
    }),
    /inputs of a feed-forward map: trained numbers/,
  ],
  "(IA)³ that adds": [
    ia3Proof({
      learns,
      method: altered(ia3Method, {
        values: ({ ia3_l: l, ...rest }) => (l ? { ia3_l: ops.add(l, 1) } : rest),
      }),
    }),
    /outputs: change at the start/,
  ],
  "RoAd that turns the other way": [
    roadProof({
      learns,
      method: altered(roadMethod, {
        values: ({ road_theta: theta, ...rest }) => ({ ...rest, road_theta: ops.neg(theta as Value) }),
      }),
    }),
    /road_1: merged weight[\s\S]*road_4: merged weight/,
  ],
  "RoAd of one half of a pair": [
    roadProof({
      learns,
      method: altered(roadMethod, {
        values({ road_theta: theta = ops.scalar(0), ...rest }) {
          const first = ops.cast(
            ops.less(ops.arange(theta.shape[0] as number), ops.ints([(theta.shape[0] as number) / 2])),
            "float32",
          );
          return { ...rest, road_theta: ops.mul(theta, first) };
        },
      }),
    }),
    /formula/,
  ],
  "RoAd that merges without the bias": [
    roadProof({ learns, method: { ...roadMethod, biasDelta: () => undefined } }),
    /road_1: merged weight/,
  ],
  "RoAd that scales when it should turn": [
    roadProof({
      learns,
      method: altered(roadMethod, {
        values: ({ road_theta: theta = ops.scalar(0), road_alpha: alpha = ops.scalar(1) }) => ({
          road_theta: theta,
          road_alpha: ops.add(alpha, ops.mul(theta, 0.5)),
        }),
      }),
    }),
    /singular values by angles/,
  ],
  "OFT by the transposed rotation": [
    oftProof({
      learns,
      method: altered(oftMethod, { values: ({ oft_R: above }) => ({ oft_R: ops.neg(above as Value) }) }),
    }),
    /four blocks: merged weight/,
  ],
  "OFT without its exact form": [
    oftProof({
      learns,
      method: altered(oftMethod, { config: (own) => ({ ...own, neumann: true }) }),
    }),
    /formula[\s\S]*hyperspherical energy[\s\S]*singular values/,
  ],
  "OFT whose series ends early": [
    oftProof({
      learns,
      method: altered(oftMethod, { config: (own) => ({ ...own, neumannTerms: own.neumannTerms - 1 }) }),
    }),
    /series of 4 terms/,
  ],
  "COFT without its projection": [oftProof({ method: { ...oftMethod, hooks: () => ({}) } }), /COFT/],
});
