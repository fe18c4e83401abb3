import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { scaleColumns, slice, svd } from "../../runtime/linalg/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { loraOptions, plainFactors } from "./lora-options.js";
import { orthonormalPenalty } from "./orthonormal.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  ...loraOptions,
  beta: z.number().min(0).default(1e-4).describe("weight of the penalty on the trained singular values"),
  gamma: z
    .number()
    .min(0)
    .default(1e-3)
    .describe("weight of the penalty that keeps the rows of A and the columns of B orthonormal"),
});

/** Configuration of KaSA, after defaults. */
export type KasaConfig = z.infer<typeof schema>;

/** The r smallest singular triplets, as a product. */
async function smallest({ site, weight }: InitContext, rank: number) {
  const { u, s, vt } = svd({ rows: site.outFeatures, cols: site.inFeatures, data: await weight() });
  const from = s.length - rank;
  return {
    b: Float32Array.from(scaleColumns(slice(u, 0, u.rows, from, s.length), s.subarray(from)).data),
    a: Float32Array.from(slice(vt, from, s.length).data),
  };
}

function tensors(site: SiteShape, config: KasaConfig): Record<string, TensorSpec> {
  const { rank } = loraScale(site.path, config);
  const most = Math.min(site.inFeatures, site.outFeatures) - 1;
  if (rank > most) {
    throw new TunesmithError("config-invalid", `kasa: rank ${rank} leaves nothing of ${site.path}`, {
      fix: `use at most ${most}`,
      details: { path: site.path },
    });
  }
  const dropped = (shape: readonly number[], side: "a" | "b"): TensorSpec => ({
    shape,
    trainable: false,
    stored: false,
    init: async (context) => (await context.once("smallest", () => smallest(context, rank)))[side],
  });
  return {
    ...plainFactors(site, rank),
    lora_diag: { shape: [rank], trainable: true, init: ({ normal }) => normal(rank) },
    dropped_A: dropped([rank, site.inFeatures], "a"),
    dropped_B: dropped([site.outFeatures, rank], "b"),
  };
}

/** s·B·diag(d)·A and what was dropped, side by side. */
function factors(values: TensorValues, site: SiteShape, config: KasaConfig): { a: Value; b: Value } {
  const { lora_A: a, lora_B: b, lora_diag: d, dropped_A: down, dropped_B: up } = values;
  const scaled = ops.mul(ops.mul(b as Value, d as Value), loraScale(site.path, config).scale);
  return {
    a: ops.concat([a as Value, down as Value], 0),
    b: ops.concat([scaled, ops.neg(up as Value)], 1),
  };
}

/**
 * KaSA (arXiv 2412.06071): W' = W less its r smallest singular triplets, plus s·B·diag(d)·A with trained singular values d. It
 * does not start as the base: what it drops is gone from the first step.
 */
export const kasaMethod = {
  name: "kasa",
  summary: "low-rank update with singular values, in the place of the weight's smallest ones",
  paper: "2412.06071",
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, site, config) {
    const { a, b } = factors(values, site, config);
    return ops.gemm(b, a, weight);
  },
  lowRank: (_, values, site, config) => factors(values, site, config),
  forward({ x, y, gate, site, tensors: values, apply, mix, dropped }, config) {
    if (config.dropout === 0) {
      const { a, b } = factors(values, site, config);
      return mix(ops.mul(apply(x, a), gate), b, { onto: y });
    }
    const { lora_A: a, lora_B: b, lora_diag: d, dropped_A: down, dropped_B: up } = values;
    const h = ops.mul(ops.mul(apply(dropped(x, config.dropout), a as Value), d as Value), gate);
    const less = mix(ops.mul(apply(x, down as Value), gate), up as Value, { onto: y, alpha: -1 });
    return mix(h, b as Value, { onto: less, alpha: loraScale(site.path, config).scale });
  },
  penalty(sites, { beta, gamma }) {
    const shape = orthonormalPenalty(
      sites.map(({ tensors: values }) => values),
      gamma,
    );
    if (beta === 0) return shape;
    const squares = sites.map(({ tensors: { lora_diag: d } }) =>
      ops.reduceSum(ops.square(d as Value), undefined, false),
    );
    const sizes = ops.mul(
      squares.reduce((left, right) => ops.add(left, right)),
      beta,
    );
    return shape ? ops.add(sizes, shape) : sizes;
  },
} satisfies Method<KasaConfig>;

/**
 * KaSA with a configuration. Defaults are PEFT's; the penalties, which PEFT leaves to the caller, belong to the loss here.
 * What is dropped is read off the base again when an adapter is loaded.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { kasa } from "tunesmith/methods";
 * const adaptation = kasa({ rank: 8, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const kasa = (config: z.input<typeof schema> = {}): Adaptation<KasaConfig> => ({
  method: kasaMethod,
  config: parseConfig("kasa", schema, config),
});
