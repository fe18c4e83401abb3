import { adaloraProof } from "../../proofs/adalora.js";
import { deloraProof } from "../../proofs/delora.js";
import { doraProof } from "../../proofs/dora.js";
import { loraStartsProof } from "../../proofs/lora-starts.js";
import { vbloraProof } from "../../proofs/vblora.js";
import { ops, type Value } from "../../src/graph/index.js";
import {
  adaloraMethod,
  type DeloraConfig,
  deloraMethod,
  type LoraConfig,
  loraMethod,
  type Method,
  type SiteConfig,
  type SiteShape,
  type TensorSpec,
  vbloraMethod,
} from "../../src/methods/index.js";
import { altered, proves, training } from "./mutants.js";

const learns = false;
const seeds: readonly number[] = [];

/** A method that computes through its weight alone. */
function weightOnly<C extends SiteConfig>({ forward: _, ...method }: Method<C>): Method<C> {
  return method;
}

/** LoRA with its magnitudes computed by other rules. */
const dora = (rule: (v: Value, m: Value, w: Value) => Value): Method<LoraConfig> => ({
  ...weightOnly<LoraConfig>(loraMethod),
  weight(w, { lora_magnitude_vector: m, ...values }, site, config) {
    return rule(loraMethod.weight(w, values, site, config), ops.unsqueeze(m as Value, 1), w);
  },
});
const lengths = (v: Value, axis: number) => ops.sqrt(ops.reduceSum(ops.square(v), [axis]));

/** LoRA whose tensors start otherwise. */
const starting = (
  change: (
    specs: Readonly<Record<string, TensorSpec>>,
    config: LoraConfig,
    site: SiteShape,
  ) => Record<string, TensorSpec>,
): Method<LoraConfig> => ({
  ...loraMethod,
  tensors: (site, config) => change(loraMethod.tensors(site, config), config, site),
});

proves(
  [deloraProof(), doraProof(), adaloraProof({ seeds: [1] }), vbloraProof({ seeds: [1] }), loraStartsProof()],
  {
    "DeLoRA with factors of their own sizes": [
      deloraProof({
        method: {
          ...weightOnly<DeloraConfig>(deloraMethod),
          weight: (w, { delora_A: a, delora_B: b, delora_w_norm: columns }) =>
            ops.gemm(b as Value, ops.mul(a as Value, columns as Value), w),
        },
      }),
      /formula[\s\S]*one direction[\s\S]*grow and shrink/,
    ],
    "DeLoRA that forgets the rank": [
      deloraProof({
        learns,
        method: altered(deloraMethod, {
          values: ({ delora_lambda: lambda, delora_A: a, ...rest }) => ({
            ...rest,
            delora_A: a as Value,
            delora_lambda: ops.mul(lambda as Value, (a as Value).shape[0] as number),
          }),
        }),
      }),
      /formula[\s\S]*one direction/,
    ],
    "DeLoRA without the columns' norms": [
      deloraProof({
        learns,
        method: altered(deloraMethod, {
          values: ({ delora_w_norm: columns, ...rest }) => ({
            ...rest,
            delora_w_norm: ops.add(ops.mul(columns as Value, 0), 1),
          }),
        }),
      }),
      /formula/,
    ],
    "DeLoRA with a λ that does not train": [
      deloraProof({ learns, method: training(deloraMethod, { delora_lambda: false }) }),
      /trained numbers/,
    ],
    "DoRA with the exact gradient of the norm": [
      doraProof({ learns, method: dora((v, m) => ops.mul(v, ops.div(m, lengths(v, 1)))) }),
      /gradient by lora_A[\s\S]*exact one[\s\S]*gradient by lora_B/,
    ],
    "DoRA with norms of columns": [
      doraProof({
        learns,
        method: dora((v, m) => ops.mul(v, ops.div(m, ops.reduceMean(lengths(v, 0), [1], true)))),
      }),
      /formula[\s\S]*row norms/,
    ],
    "DoRA with the norms of W": [
      doraProof({ learns, method: dora((v, m, w) => ops.mul(v, ops.div(m, lengths(w, 1)))) }),
      /formula[\s\S]*row norms/,
    ],
    "DoRA whose rows start at length one": [
      doraProof({
        learns,
        method: starting(({ lora_magnitude_vector: m, ...specs }) => ({
          ...specs,
          ...(m && {
            lora_magnitude_vector: { ...m, init: () => new Float32Array(m.shape[0] ?? 0).fill(1) },
          }),
        })),
      }),
      /change at the start/,
    ],
    "AdaLoRA that never takes triplets away": [
      adaloraProof({ seeds: [1], method: { ...adaloraMethod, hooks: () => ({}) } }),
      /off the cubic schedule[\s\S]*triplets left in all/,
    ],
    "AdaLoRA that keeps the least important": [
      adaloraProof({
        seeds: [1],
        method: {
          ...adaloraMethod,
          hooks(context) {
            const hooks = adaloraMethod.hooks(context);
            // Large gradients taken for small ones.
            return {
              ...hooks,
              afterBackward: (at, found, weights) =>
                hooks.afterBackward?.(
                  at,
                  new Map(
                    [...found].map(([name, data]) => [
                      name,
                      data.map((value) => 1e-6 / (Math.abs(value) + 1e-6)),
                    ]),
                  ),
                  weights,
                ),
            };
          },
        },
      }),
      /triplets left where|squared error over/,
    ],
    "AdaLoRA on a straight schedule": [
      adaloraProof({
        seeds: [1],
        method: {
          ...adaloraMethod,
          hooks: (context) =>
            adaloraMethod.hooks({ ...context, config: { ...context.config, rankWarmup: 0 } }),
        },
      }),
      /off the cubic schedule/,
    ],
    "AdaLoRA without its penalty": [
      adaloraProof({ seeds: [1], method: { ...adaloraMethod, penalty: () => undefined } }),
      /orthogonality/,
    ],
    "AdaLoRA scaled by the rank that is left": [
      adaloraProof({
        seeds,
        method: altered(adaloraMethod, { config: (own) => ({ ...own, initRank: own.initRank - 1 }) }),
      }),
      /formula/,
    ],
    "VB-LoRA that mixes all vectors of its bank": [
      vbloraProof({
        seeds,
        method: altered(vbloraMethod, { config: (own) => ({ ...own, topK: own.vectors }) }),
      }),
      /formula[\s\S]*of chosen vectors|of others/,
    ],
    "VB-LoRA with its pieces in another order": [
      vbloraProof({
        seeds,
        method: altered(vbloraMethod, {
          values({ vblora_logits_B: logits = ops.scalar(0), ...rest }) {
            const order = ops.ints(Array.from({ length: logits.shape[0] as number }, (_, at) => at ^ 1));
            return { ...rest, vblora_logits_B: ops.gather(logits, order, 0) };
          },
        }),
      }),
      /formula/,
    ],
    "VB-LoRA with a frozen bank": [
      vbloraProof({ seeds: [1], method: training(vbloraMethod, { vblora_vector_bank: false }) }),
      /trained numbers[\s\S]*squared error/,
    ],
    "a start that forgets what it took": [
      loraStartsProof({
        method: starting(({ lora_A0: _, lora_B0: __, ...specs }) => specs),
      }),
      /pissa: change of W[\s\S]*olora: change of W[\s\S]*lora_ga: change of W/,
    ],
    "PiSSA not divided by the scale": [
      loraStartsProof({
        method: starting((_, config, site) => loraMethod.tensors(site, { ...config, alpha: config.rank })),
      }),
      /pissa: ‖W − s B A‖/,
    ],
    "OLoRA's and CorDA's starts exchanged": [
      loraStartsProof({
        method: starting((specs, config, site) => {
          const init = config.init === "olora" ? "corda" : config.init === "corda" ? "olora" : undefined;
          return init ? loraMethod.tensors(site, { ...config, init }) : { ...specs };
        }),
      }),
      /olora: largest entry[\s\S]*corda: ‖/,
    ],
    "a knowledge-preserving start that takes the largest": [
      loraStartsProof({
        method: starting((specs, config, site) => {
          return config.init === "corda_kpm"
            ? loraMethod.tensors(site, { ...config, init: "corda" })
            : { ...specs };
        }),
      }),
      /corda_kpm: ‖/,
    ],
    "LoRA-GA whose factors share their directions": [
      loraStartsProof({
        method: starting((specs, config) => {
          if (config.init !== "lora_ga") return { ...specs };
          const { lora_A0: a0, lora_B0: b0, lora_A: a, lora_B: b } = specs;
          // B from the transposed right factor: the first directions again.
          const first = (spec: TensorSpec): TensorSpec => ({
            ...spec,
            init: async (context) => {
              const data = (await spec.init(context)) as Float32Array;
              return data.map((_, at) => data[at - (at % config.rank)] as number);
            },
          });
          return {
            lora_A: a,
            lora_B: first(b as TensorSpec),
            lora_A0: a0,
            lora_B0: first(b0 as TensorSpec),
          } as Record<string, TensorSpec>;
        }),
      }),
      /lora_ga: cosine[\s\S]*columns of B, that are not orthogonal/,
    ],
  },
);
