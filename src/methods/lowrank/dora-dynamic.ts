import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import type { TrainingHooks } from "../../models/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, HookContext, HookSite, Method, SiteTensors } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(8).describe("average rank b that is left in the end"),
  startFactor: z.number().min(1).default(1.5).describe("ranks start at this multiple of it"),
  alpha: z.number().positive().default(8).describe("the update is scaled by alpha / start rank"),
  dropout: z.number().min(0).lt(1).default(0.1).describe("dropout on the input of the update while training"),
  scoreBeta: z.number().min(0).lt(1).default(0.9).describe("smoothing of the scores"),
  pruneStart: z.number().min(0).max(1).default(0.15).describe("share of the run before pruning begins"),
  pruneEnd: z.number().min(0).max(1).default(0.5).describe("share of the run after pruning has ended"),
  pruneEvery: z.number().int().positive().default(100).describe("updates between prunings"),
  demWeight: z.number().min(0).default(0.1).describe("weight of the variance inside components in the loss"),
});

/** Configuration of dynamic-rank DoRA, after defaults. */
export type DynamicDoraConfig = z.infer<typeof schema>;

/** Components a site starts with. */
export const startRank = ({ rank, startFactor }: DynamicDoraConfig): number => Math.ceil(startFactor * rank);

/** Mean unbiased variance inside the component vectors of one site: rows of A and columns of B. */
function spread({ tensors: { lora_A: a, lora_B: b } }: SiteTensors): Value {
  const variance = (x: Value, axis: number) => {
    const n = x.shape[axis] as number;
    const centred = ops.sub(x, ops.reduceMean(x, [axis]));
    return ops.mul(ops.reduceSum(ops.square(centred), undefined, false), 1 / Math.max(1, n - 1));
  };
  return ops.add(variance(a as Value, 1), variance(b as Value, 0));
}

/**
 * DoRA with dynamic rank distribution (arXiv 2405.17357; not the weight-decomposed DoRA): components with a learnable
 * factor each, scored by their share of the update and pruned over all sites.
 */
export const dynamicDoraMethod = {
  name: "dora-dynamic",
  summary: "low-rank update whose components are pruned where they matter least",
  paper: "2405.17357",
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const r = startRank(config);
    const kaiming = (fan: number) => Math.sqrt(6 / fan);
    return {
      lora_A: {
        shape: [r, site.inFeatures],
        trainable: true,
        init: ({ uniform }) =>
          uniform(r * site.inFeatures, -kaiming(site.inFeatures), kaiming(site.inFeatures)),
      },
      lora_B: {
        shape: [site.outFeatures, r],
        trainable: true,
        init: ({ uniform }) => uniform(site.outFeatures * r, -kaiming(r), kaiming(r)),
      },
      lora_c: { shape: [r], trainable: true, init: () => new Float32Array(r) },
    };
  },
  additive: () => true,
  lowRank(_, { lora_A: a, lora_B: b, lora_c: c }, __, config) {
    return { a: a as Value, b: ops.mul(b as Value, ops.mul(c as Value, config.alpha / startRank(config))) };
  },
  weight(weight, { lora_A: a, lora_B: b, lora_c: c }, _, config) {
    const left = ops.mul(b as Value, c as Value);
    return ops.gemm(left, a as Value, weight, { alpha: config.alpha / startRank(config) });
  },
  forward({ x, y, gate, tensors: values, apply, mix, perFeature, dropped }, config) {
    const { lora_A: a, lora_B: b, lora_c: c } = values as Record<string, Value>;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const inner = ops.mul(ops.mul(apply(input, a as Value), perFeature(c as Value)), gate);
    return mix(inner, b as Value, { onto: y, alpha: config.alpha / startRank(config) });
  },
  penalty(sites, config) {
    if (config.demWeight === 0) return undefined;
    const total = sites.map(spread).reduce((a, b) => ops.add(a, b));
    return ops.mul(total, config.demWeight / (2 * sites.length * startRank(config)));
  },
  hooks: prune,
} satisfies Method<DynamicDoraConfig>;

const numbers = (site: HookSite, key: string) => site.tensors[key]?.tensor.data as Float32Array;

/** |c_i|·‖b_i‖·‖a_i‖ over the norm of their sum: each component's share of a site's update. */
export function componentShares(site: HookSite): Float64Array {
  const [a, b, c] = [numbers(site, "lora_A"), numbers(site, "lora_B"), numbers(site, "lora_c")];
  const [r, inputs, outputs] = [c.length, site.shape.inFeatures, site.shape.outFeatures];
  const gram = (get: (k: number, at: number) => number, count: number) => {
    const out = new Float64Array(r * r);
    for (let k = 0; k < r; k++)
      for (let l = 0; l <= k; l++) {
        let sum = 0;
        for (let at = 0; at < count; at++) sum += get(k, at) * get(l, at);
        out[k * r + l] = sum;
        out[l * r + k] = sum;
      }
    return out;
  };
  const ga = gram((k, at) => a[k * inputs + at] as number, inputs);
  const gb = gram((k, at) => b[at * r + k] as number, outputs);
  // ‖Σ c_k b_k a_kᵀ‖² = Σ_kl c_k c_l ⟨a_k, a_l⟩⟨b_k, b_l⟩
  let square = 0;
  for (let k = 0; k < r; k++)
    for (let l = 0; l < r; l++)
      square += (c[k] as number) * (c[l] as number) * (ga[k * r + l] as number) * (gb[k * r + l] as number);
  const whole = Math.sqrt(Math.max(square, 0)) + 1e-8;
  return Float64Array.from(c, (value, k) => {
    const size = (ga[k * (r + 1)] as number) * (gb[k * (r + 1)] as number);
    return (Math.abs(value) * Math.sqrt(size)) / whole;
  });
}

function prune({ config, sites }: HookContext<DynamicDoraConfig>): TrainingHooks {
  const { scoreBeta, pruneStart, pruneEnd, pruneEvery, rank } = config;
  const start = startRank(config);
  let scores = sites.map(() => new Float64Array(start));
  let masks: Uint8Array[] | undefined;
  /** The `count` components of smallest score over all sites lose their factor. */
  const cut = (count: number) => {
    const all = scores.flatMap((own, site) => [...own].map((score, k) => ({ score, site, k })));
    const doomed = all.sort((a, b) => a.score - b.score).slice(0, count);
    for (const { site, k } of doomed) numbers(sites[site] as HookSite, "lora_c")[k] = 0;
  };
  return {
    afterUpdate({ step, steps }) {
      const [from, last] = [steps * pruneStart, steps * (1 - pruneStart - pruneEnd)];
      const at = step - from;
      if (masks) {
        masks.forEach((mask, site) => {
          const c = numbers(sites[site] as HookSite, "lora_c");
          mask.forEach((kept, k) => {
            if (kept === 0) c[k] = 0;
          });
        });
        return;
      }
      sites.forEach((site, index) => {
        const own = scores[index] as Float64Array;
        componentShares(site).forEach((share, k) => {
          own[k] = scoreBeta * (own[k] as number) + (1 - scoreBeta) * share;
        });
      });
      const isLast = at >= last;
      if (at < 0 || (Math.floor(at) % pruneEvery !== 0 && !isLast)) return;
      const share = ((start - rank) / start) * Math.min(1, at / Math.max(last, 1)) ** 3;
      cut(Math.max(1, Math.floor(share * sites.length * start)));
      if (isLast)
        masks = sites.map((site) =>
          Uint8Array.from(numbers(site, "lora_c"), (value) => (value === 0 ? 0 : 1)),
        );
    },
    state: () => ({
      scores: scores.map((own) => [...own]),
      masks: masks ? masks.map((mask) => [...mask]) : null,
    }),
    restore(state) {
      const stored = state as { scores: number[][]; masks: number[][] | null };
      scores = stored.scores.map((own) => Float64Array.from(own));
      masks = stored.masks?.map((mask) => Uint8Array.from(mask));
    },
  };
}

/**
 * Dynamic-rank DoRA with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { dynamicDora } from "tunesmith/methods";
 * const adaptation = dynamicDora({ rank: 8, targets: "all-linear" });
 * ```
 */
export const dynamicDora = (config: z.input<typeof schema> = {}): Adaptation<DynamicDoraConfig> => ({
  method: dynamicDoraMethod,
  config: parseConfig("dora-dynamic", schema, config),
});
