import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec } from "../method.js";
import { orthonormalPenalty } from "./orthonormal.js";
import { moveRanks } from "./rank-moves.js";

const schema = siteConfigSchema.extend({
  rank: z
    .number()
    .int()
    .positive()
    .default(8)
    .describe("rank of every module at the start, and their mean ever after"),
  maxRank: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("most components of one module; default: twice the rank"),
  alpha: z.number().positive().default(16).describe("the update is scaled by alpha / rank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  movePerEvent: z.number().int().positive().default(4).describe("components moved at an event, b"),
  maxPerLayer: z
    .number()
    .int()
    .positive()
    .default(2)
    .describe("weakest components of a module that may move, k"),
  rankWarmup: z.number().min(0).max(1).default(0.1).describe("share of the run before components move"),
  stabilise: z.number().min(0).max(1).default(0.25).describe("share of the run at its end when none moves"),
  every: z.number().int().positive().default(100).describe("updates between events"),
  scheduler: z.boolean().default(true).describe("move fewer and fewer components, on a cubic schedule"),
  beta1: z.number().gt(0).lt(1).default(0.85).describe("smoothing of an entry's sensitivity"),
  beta2: z.number().gt(0).lt(1).default(0.85).describe("smoothing of its uncertainty"),
  orthWeight: z
    .number()
    .min(0)
    .default(0.1)
    .describe("weight of the penalty that keeps the rows of A and the columns of B orthonormal"),
});

/** Configuration of ElaLoRA, after defaults. */
export type ElaloraConfig = z.infer<typeof schema>;

/** Components that a module has room for. */
export const roomOf = ({ inFeatures, outFeatures }: SiteShape, { rank, maxRank }: ElaloraConfig): number =>
  Math.max(rank, Math.min(maxRank ?? 2 * rank, inFeatures, outFeatures));

/** N(0, 0.02²) in the components that a module starts with, zero in the room beside them. */
function tensors(site: SiteShape, config: ElaloraConfig): Record<string, TensorSpec> {
  const { rank } = config;
  const [room, inn, out] = [roomOf(site, config), site.inFeatures, site.outFeatures];
  const rows = ({ normal }: InitContext) => {
    const a = new Float32Array(room * inn);
    a.set(normal(rank * inn, 0.02));
    return a;
  };
  const columns = ({ normal }: InitContext) =>
    normal(out * room, 0.02).map((value, at) => (at % room < rank ? value : 0));
  return {
    lora_A: { shape: [room, inn], trainable: true, init: rows },
    lora_E: { shape: [room, 1], trainable: true, init: () => new Float32Array(room) },
    lora_B: { shape: [out, room], trainable: true, init: columns },
    lora_mask: { shape: [room], trainable: false, init: () => new Float32Array(room).fill(1, 0, rank) },
  };
}

/**
 * Elastic low-rank adaptation (arXiv 2504.00254): W' = W + s·B·diag(e)·A, and components move from modules that need them
 * least to modules whose weakest still matter.
 */
export const elaloraMethod = {
  name: "elalora",
  summary: "low-rank update whose components move between modules while training",
  paper: "2504.00254",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  additive: () => true,
  lowRank(_, { lora_A: a, lora_E: e, lora_B: b }, __, { alpha, rank }) {
    return { a: ops.mul(a as Value, e as Value), b: ops.mul(b as Value, alpha / rank) };
  },
  weight(weight, { lora_A: a, lora_E: e, lora_B: b }, _, { alpha, rank }) {
    return ops.gemm(b as Value, ops.mul(a as Value, e as Value), weight, { alpha: alpha / rank });
  },
  forward({ x, y, gate, apply, mix, perFeature, dropped, tensors: values }, { alpha, rank, dropout }) {
    const input = dropout > 0 ? dropped(x, dropout) : x;
    const factor = perFeature(ops.mul(ops.squeeze(values.lora_E as Value, 1), gate));
    const inner = ops.mul(apply(input, values.lora_A as Value), factor);
    return mix(inner, values.lora_B as Value, { onto: y, alpha: alpha / rank });
  },
  penalty: (sites, { orthWeight }) =>
    orthonormalPenalty(
      sites.map(({ tensors: values }) => values),
      orthWeight / (2 * sites.length),
    ),
  hooks: moveRanks,
} satisfies Method<ElaloraConfig>;

/**
 * ElaLoRA with a configuration; `toLora` makes a plain LoRA of its ranks. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { elalora } from "tunesmith/methods";
 * const adaptation = elalora({ rank: 8, movePerEvent: 4, every: 50, targets: "all-linear" });
 * ```
 */
export const elalora = (config: z.input<typeof schema> = {}): Adaptation<ElaloraConfig> => ({
  method: elaloraMethod,
  config: parseConfig("elalora", schema, config),
});
