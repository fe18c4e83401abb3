import {
  graloraProof,
  hiraProof,
  lohaProof,
  lokrProof,
  missProof,
  randloraProof,
  veraProof,
} from "../../proofs/lowrank-structures.js";
import { ops, type Value } from "../../src/graph/index.js";
import {
  graloraMethod,
  hiraMethod,
  lohaMethod,
  lokrMethod,
  missMethod,
  randloraMethod,
  type TensorValues,
  veraMethod,
} from "../../src/methods/index.js";
import { altered, proves, training } from "./mutants.js";

const learns = false;
const of = (values: TensorValues, key: string): Value => {
  const found = values[key];
  if (!found) throw new Error(`no tensor ${key}`);
  return found;
};
/** A value with one axis in another order. */
const reversed = (value: Value, axis: number): Value => {
  const size = value.shape[axis] as number;
  return ops.gather(value, ops.ints(Array.from({ length: size }, (_, at) => size - 1 - at)), axis);
};

proves([lohaProof(), lokrProof(), hiraProof(), veraProof(), randloraProof(), graloraProof(), missProof()], {
  "LoHa that squares one product": [
    lohaProof({
      learns,
      method: altered(lohaMethod, {
        values: (own) => ({ ...own, hada_w2_a: of(own, "hada_w1_a"), hada_w2_b: of(own, "hada_w1_b") }),
      }),
    }),
    /formula[\s\S]*rank of the update/,
  ],
  "LoHa whose factors are added": [
    lohaProof({
      learns,
      method: {
        ...lohaMethod,
        weight: (w, own) =>
          ops.gemm(
            of(own, "hada_w1_a"),
            of(own, "hada_w1_b"),
            ops.gemm(of(own, "hada_w2_a"), of(own, "hada_w2_b"), w),
          ),
      },
    }),
    /rank 4: rank of the update[\s\S]*rank 7: rank of the update/,
  ],
  "LoHa with one factor frozen": [
    lohaProof({ learns, method: training(lohaMethod, { hada_w2_b: false }) }),
    /trained numbers/,
  ],
  "LoKr with its factors in the other order": [
    lokrProof({
      learns,
      method: altered(lokrMethod, {
        values: (own) => (own.lokr_w1 && own.lokr_w2 ? { lokr_w1: own.lokr_w2, lokr_w2: own.lokr_w1 } : own),
      }),
    }),
    /both factors whole: merged weight[\s\S]*both factors whole: forward/,
  ],
  "LoKr without its scale": [
    lokrProof({
      learns,
      method: altered(lokrMethod, { config: (own) => ({ ...own, alpha: own.rank }) }),
    }),
    /formula/,
  ],
  "LoKr that merges what activations do not see": [
    lokrProof({
      method: altered(lokrMethod, {
        keeps: "weight",
        values: (own) => (own.lokr_w1 ? { ...own, lokr_w1: ops.transpose(of(own, "lokr_w1"), [1, 0]) } : own),
      }),
    }),
    /whole: forward pass[\s\S]*whole: what 800 steps miss/,
  ],
  "HiRA that adds, as LoRA does": [
    hiraProof({
      learns,
      method: { ...hiraMethod, weight: (w, own) => ops.gemm(of(own, "hira_B"), of(own, "hira_A"), w) },
    }),
    /formula[\s\S]*rank of the update/,
  ],
  "HiRA without the one": [
    hiraProof({
      learns,
      method: {
        ...hiraMethod,
        weight: (w, own) => ops.mul(w, ops.matmul(of(own, "hira_B"), of(own, "hira_A"))),
      },
    }),
    /change at the start/,
  ],
  "VeRA with one of its vectors left out": [
    veraProof({
      method: altered(veraMethod, {
        values: (own) => ({ ...own, vera_lambda_d: ops.add(ops.mul(of(own, "vera_lambda_d"), 0), 0.1) }),
      }),
    }),
    /formula[\s\S]*steps miss/,
  ],
  "VeRA that trains its projections": [
    veraProof({ learns, method: training(veraMethod, { vera_A: true }) }),
    /trained numbers/,
  ],
  "RandLoRA with the pairs of the paper instead of the files'": [
    randloraProof({
      learns,
      method: altered(randloraMethod, {
        values: (own) => {
          const b = of(own, "randlora_B");
          return { ...own, randlora_B: ops.reshape(ops.transpose(b, [0, 2, 1]), b.shape) };
        },
      }),
    }),
    /formula/,
  ],
  "RandLoRA with all bases but one off": [
    randloraProof({
      learns,
      method: altered(randloraMethod, {
        values(own) {
          const lambda = of(own, "randlora_lambda");
          const first = ops.cast(ops.less(ops.arange(lambda.shape[1] as number), ops.ints([1])), "float32");
          return { ...own, randlora_lambda: ops.mul(lambda, first) };
        },
      }),
    }),
    /rank of the update/,
  ],
  "GraLoRA that deals its codes to the wrong blocks": [
    graloraProof({
      learns,
      method: altered(graloraMethod, {
        values: (own) => ({ ...own, gralora_A: reversed(of(own, "gralora_A"), 2) }),
      }),
    }),
    /formula/,
  ],
  "GraLoRA whose scale forgets the ordinary part": [
    graloraProof({
      learns,
      method: altered(graloraMethod, {
        config: (own) => ({ ...own, alpha: (own.alpha * (own.rank + own.hybridRank)) / own.rank }),
      }),
    }),
    /2 x 2 blocks, rank 4 and 1 of LoRA: merged weight/,
  ],
  "MiSS with its block upside down": [
    missProof({
      learns,
      method: altered(missMethod, {
        values: (own) => ({ miss_block: reversed(of(own, "miss_block"), 0) }),
      }),
    }),
    /one block: merged weight/,
  ],
  "MiSS with means of shards instead of sums": [
    missProof({
      learns,
      method: altered(missMethod, {
        keeps: "weight",
        values: (own, site, { rank }) => ({
          miss_block: ops.mul(of(own, "miss_block"), rank / site.inFeatures),
        }),
      }),
    }),
    /one block: forward pass/,
  ],
});
