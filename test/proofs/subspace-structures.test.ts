import { bdloraProof, frodProof, qaloraProof } from "../../proofs/factor-structures.js";
import { adamssProof, deftProjectionProof, kasaProof, osfProof } from "../../proofs/subspace-structures.js";
import { ops, type Value } from "../../src/graph/index.js";
import {
  adamssMethod,
  type BdloraConfig,
  bdloraMethod,
  deftProjectionMethod,
  frodMethod,
  kasaMethod,
  osfMethod,
  qaloraMethod,
  type TensorValues,
} from "../../src/methods/index.js";
import { altered, proves, training } from "./mutants.js";

const learns = false;
const of = (values: TensorValues, key: string): Value => {
  const found = values[key];
  if (!found) throw new Error(`no tensor ${key}`);
  return found;
};

/** Plain LoRA. */
const whole = (config: BdloraConfig): BdloraConfig => ({ ...config, blockA: [], blockB: [], strict: false });

/** The trained part against its start, with gradients as they come. */
const unprojected = (values: TensorValues) => ({
  a: ops.concat([of(values, "V_low"), of(values, "V_start")], 0),
  b: ops.concat(
    [
      ops.mul(of(values, "U_low"), of(values, "S_low")),
      ops.mul(of(values, "U_start"), ops.neg(of(values, "S_start"))),
    ],
    1,
  ),
});

proves(
  [osfProof(), deftProjectionProof(), adamssProof(), frodProof(), qaloraProof(), bdloraProof(), kasaProof()],
  {
    "OSF without the projection of gradients": [
      osfProof({
        method: {
          ...osfMethod,
          forward({ x, y, gate, tensors: values, apply, mix }) {
            const { a, b } = unprojected(values);
            return mix(ops.mul(apply(x, a), gate), b, { onto: y });
          },
        },
      }),
      /kept outputs[\s\S]*kept inputs/,
    ],
    "OSF that adds to its start instead of taking its place": [
      osfProof({
        learns,
        method: altered(osfMethod, {
          values: (own) => ({ ...own, S_start: ops.mul(of(own, "S_start"), 0) }),
        }),
      }),
      /change at the start[\s\S]*formula/,
    ],
    "DEFT that projects with P on both sides": [
      deftProjectionProof({
        learns,
        method: altered(deftProjectionMethod, {
          config: (own) => (own.projection === "relu" ? { ...own, projection: "qr" } : own),
        }),
      }),
      /relu: merged weight/,
    ],
    "DEFT with what is put in unscaled": [
      deftProjectionProof({
        learns,
        method: altered(deftProjectionMethod, { config: (own) => ({ ...own, alpha: undefined }) }),
      }),
      /formula[\s\S]*filled: the subspace holds/,
    ],
    "AdaMSS with all rows in one cluster": [
      adamssProof({
        learns,
        method: altered(adamssMethod, {
          values: (own) => ({ ...own, adamss_clusters: ops.mul(of(own, "adamss_clusters"), 0) }),
        }),
      }),
      /formula[\s\S]*rank of the update/,
    ],
    "AdaMSS that forgets the bias": [
      adamssProof({ learns, method: { ...adamssMethod, biasDelta: () => undefined } }),
      /merged weight/,
    ],
    "AdaMSS that trains its basis": [
      adamssProof({ learns, method: training(adamssMethod, { adamss_newB: true }) }),
      /trained numbers/,
    ],
    "FRoD without its entries beside the diagonal": [
      frodProof({
        method: altered(frodMethod, {
          values: (own) => ({
            ...own,
            frod_lambda_s_values: ops.mul(of(own, "frod_lambda_s_values"), 0),
          }),
        }),
      }),
      /formula[\s\S]*steps miss/,
    ],
    "FRoD with rows and columns of them exchanged": [
      frodProof({
        learns,
        method: altered(frodMethod, {
          values(own) {
            const places = of(own, "frod_s_indices.q_proj");
            return { ...own, "frod_s_indices.q_proj": ops.gather(places, ops.ints([1, 0]), 0) };
          },
        }),
      }),
      /formula/,
    ],
    "QA-LoRA with a sum over groups instead of a mean": [
      qaloraProof({
        learns,
        method: altered(qaloraMethod, { config: (own) => ({ ...own, alpha: own.alpha * own.groupSize }) }),
      }),
      /formula/,
    ],
    "QA-LoRA whose groups lie across": [
      qaloraProof({
        learns,
        method: {
          ...qaloraMethod,
          weight(weight, values, site, config) {
            const tiled = ops.tile(of(values, "lora_A"), [1, config.groupSize]);
            const scale = (config.alpha / config.rank) * (site.inFeatures / config.groupSize ** 2);
            return ops.gemm(of(values, "lora_B"), tiled, weight, { alpha: scale });
          },
        },
      }),
      /formula[\s\S]*codes of 4 bits/,
    ],
    "BD-LoRA with its blocks in the other order": [
      bdloraProof({
        learns,
        method: altered(bdloraMethod, {
          values(own) {
            const a = of(own, "lora_A");
            const order = Array.from({ length: a.shape[0] as number }, (_, at) => at).reverse();
            return { ...own, lora_A: ops.gather(a, ops.ints(order), 0) };
          },
        }),
      }),
      /A in 4 blocks: merged[\s\S]*B in 4 blocks: merged/,
    ],
    "BD-LoRA that trains whole factors": [
      bdloraProof({
        learns,
        method: {
          ...bdloraMethod,
          tensors: (site, config) => bdloraMethod.tensors(site, whole(config)),
          weight: (weight, values, site, config) => bdloraMethod.weight(weight, values, site, whole(config)),
          forward: (call, config) => bdloraMethod.forward(call, whole(config)),
        },
      }),
      /A in 4 blocks: trained numbers[\s\S]*B in 4 blocks: trained numbers/,
    ],
    "KaSA that keeps what it should drop": [
      kasaProof({
        method: altered(kasaMethod, {
          values: (own) => ({ ...own, dropped_B: ops.mul(of(own, "dropped_B"), 0) }),
        }),
      }),
      /lost at the start[\s\S]*other triplets/,
    ],
    "KaSA that squares its singular values": [
      kasaProof({
        method: altered(kasaMethod, {
          values: (own) => ({ ...own, lora_diag: ops.square(of(own, "lora_diag")) }),
        }),
      }),
      /merged weight[\s\S]*half of it/,
    ],
  },
);
