import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { orthonormalPenalty } from "./orthonormal.js";
import { allocateRanks } from "./rank-allocation.js";

const count = z.number().int().min(0);

const schema = siteConfigSchema.extend({
  initRank: z.number().int().positive().default(12).describe("rank of every module at the start"),
  targetRank: z.number().int().positive().default(8).describe("mean rank of the modules at the end"),
  alpha: z.number().positive().default(8).describe("the update is scaled by alpha / initRank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  rankWarmup: count.default(0).describe("steps before ranks are taken away"),
  finalSteps: count.default(0).describe("steps at the end with the ranks as they are then"),
  interval: z.number().int().positive().default(1).describe("steps between two allocations"),
  beta1: z.number().gt(0).lt(1).default(0.85).describe("smoothing of an entry's sensitivity"),
  beta2: z.number().gt(0).lt(1).default(0.85).describe("smoothing of its uncertainty"),
  orthogonality: z
    .number()
    .min(0)
    .default(0.5)
    .describe("weight of the penalty that keeps the rows of A and the columns of B orthonormal"),
  totalSteps: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("steps of the schedule; default: those of the run"),
  rankPattern: z
    .record(z.string(), z.array(z.boolean()))
    .default({})
    .describe("rows of initRank that a module kept, by its path"),
});

/** Configuration of AdaLoRA, after defaults. */
export type AdaloraConfig = z.infer<typeof schema>;

function tensors(site: SiteShape, { initRank, rankPattern }: AdaloraConfig): Record<string, TensorSpec> {
  const kept = rankPattern[site.path];
  const rank = kept ? kept.filter(Boolean).length : initRank;
  const spec = (shape: readonly [number, number], std: number): TensorSpec => ({
    shape,
    trainable: rank > 0,
    init: ({ normal }) => (std === 0 ? new Float32Array(shape[0]) : normal(shape[0] * shape[1], std)),
  });
  return {
    lora_A: spec([rank, site.inFeatures], 0.02),
    lora_E: spec([rank, 1], 0),
    lora_B: spec([site.outFeatures, rank], 0.02),
  };
}

/** A module whose triplets were all taken away does nothing. */
const isEmpty = ({ lora_E: e }: TensorValues): boolean => e?.shape[0] === 0;

/** PEFT's scale, which counts the rank at the start, also of modules that lost some. */
const scaleOf = ({ alpha, initRank }: AdaloraConfig): number => alpha / (initRank + 1e-5);

/** AdaLoRA (arXiv 2303.10512): W' = W + s·B·diag(e)·A, an SVD in shape, whose least important triplets are taken away while it trains. */
export const adaloraMethod = {
  name: "adalora",
  summary: "low-rank update whose rank is shared out among modules while training",
  paper: "2303.10512",
  sized: (size) => ({ initRank: size, targetRank: Math.max(1, Math.floor((2 * size) / 3)) }),
  schema,
  kinds: ["linear", "conv"],
  tensors,
  additive: () => true,
  lowRank(_, values, __, config) {
    const { lora_A: a, lora_B: b, lora_E: e } = values as Record<string, Value>;
    return { a: ops.mul(a as Value, e as Value), b: ops.mul(b as Value, scaleOf(config)) };
  },
  weight(weight, values, _, config) {
    if (isEmpty(values)) return weight;
    const { lora_A: a, lora_B: b, lora_E: e } = values as Record<string, Value>;
    return ops.gemm(b as Value, ops.mul(a as Value, e as Value), weight, { alpha: scaleOf(config) });
  },
  forward({ x, y, gate, apply, mix, perFeature, dropped, tensors: values }, config) {
    if (isEmpty(values)) return y;
    const { lora_A: a, lora_B: b, lora_E: e } = values as Record<string, Value>;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const factor = perFeature(ops.mul(ops.squeeze(e as Value, 1), gate));
    return mix(ops.mul(apply(input, a as Value), factor), b as Value, { onto: y, alpha: scaleOf(config) });
  },
  penalty: (sites, { orthogonality }) =>
    orthonormalPenalty(
      sites.flatMap(({ tensors: values }) => (isEmpty(values) ? [] : [values])),
      orthogonality / (2 * sites.length),
    ),
  hooks: allocateRanks,
} satisfies Method<AdaloraConfig>;

/**
 * AdaLoRA with a configuration. Defaults are PEFT's; the schedule spans the run.
 *
 * Throws `config-invalid` naming the field; training throws it when `rankWarmup` and `finalSteps` leave no step between.
 *
 * @example
 * ```ts
 * import { adalora } from "tunesmith/methods";
 * const adaptation = adalora({ initRank: 12, targetRank: 4, rankWarmup: 100, finalSteps: 200, targets: "all-linear" });
 * ```
 */
export const adalora = (config: z.input<typeof schema> = {}): Adaptation<AdaloraConfig> => ({
  method: adaloraMethod,
  config: parseConfig("adalora", schema, config),
});
