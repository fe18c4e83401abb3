import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorValues } from "../method.js";
import { sharedProjections } from "./projections.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(256).describe("rows r of the shared random projections"),
  alpha: z.number().positive().default(1).describe("scale of the update"),
  dInitial: z.number().positive().default(0.1).describe("start of the scaling vector d"),
  projectionSeed: z.number().int().nonnegative().default(0).describe("seed of the shared projections"),
  saveProjection: z.boolean().default(true).describe("write the projections into files"),
  klWeight: z.number().min(0).default(1e-6).describe("weight of the prior on the low-rank code (1 / beta)"),
});

/** Configuration of PVeRA, after defaults. */
export type PveraConfig = z.infer<typeof schema>;

/** A_mu, A_s `[r, in]`, B `[out, r]` and d_mu, d_s `[r]` of one site. */
function parts(values: TensorValues, site: SiteShape, { rank }: PveraConfig) {
  const a = ops.slice(values.pvera_A as Value, 1, 0, site.inFeatures);
  const d = values.pvera_lambda_d as Value;
  return {
    means: ops.slice(a, 0, 0, rank),
    spreads: ops.slice(a, 0, rank, 2 * rank),
    b: ops.slice(values.pvera_B as Value, 0, 0, site.outFeatures),
    dMean: ops.slice(d, 0, 0, rank),
    dSpread: ops.slice(d, 0, rank, 2 * rank),
  };
}

/**
 * Probabilistic vector-based adaptation (arXiv 2512.07703): shared frozen projections, trained scaling vectors, and a
 * low-rank code that is Gaussian while training. Outside training its mean is used, which merges.
 */
export const pveraMethod = {
  name: "pvera",
  summary: "shared random projections with trained scales and a Gaussian code",
  paper: "2512.07703",
  schema,
  kinds: ["linear"],
  shared: (sites, { rank, projectionSeed: seed, saveProjection: stored }) =>
    sharedProjections(sites, { names: ["pvera_A", "pvera_B"], rowsOfA: 2 * rank, rank, seed, stored }),
  tensors: (site, { rank, dInitial }) => ({
    pvera_lambda_b: {
      shape: [site.outFeatures],
      trainable: true,
      init: () => new Float32Array(site.outFeatures),
    },
    pvera_lambda_d: {
      shape: [2 * rank],
      trainable: true,
      init: () => new Float32Array(2 * rank).fill(dInitial),
    },
  }),
  additive: () => true,
  weight(weight, values, site, config) {
    const { means, b, dMean } = parts(values, site, config);
    const scaled = ops.mul(means, ops.unsqueeze(dMean, 1));
    const rows = ops.mul(b, ops.unsqueeze(values.pvera_lambda_b as Value, 1));
    return ops.gemm(rows, scaled, weight, { alpha: config.alpha });
  },
  forward({ x, y, gate, tensors: values, site, apply, mix, perFeature, training, noise, addLoss }, config) {
    const { means, spreads, b, dMean, dSpread } = parts(values, site, config);
    const mean = ops.mul(apply(x, means), perFeature(dMean));
    let code = mean;
    if (training) {
      const logVariance = ops.mul(apply(x, spreads), perFeature(dSpread));
      const spread = ops.exp(ops.mul(logVariance, 0.5));
      code = ops.add(mean, ops.mul(spread, noise(mean, "normal")));
      if (config.klWeight > 0) addLoss(ops.mul(divergence(mean, logVariance), config.klWeight));
    }
    const update = ops.mul(mix(code, b), perFeature(values.pvera_lambda_b as Value));
    return ops.add(y, ops.mul(ops.mul(update, config.alpha), gate));
  },
} satisfies Method<PveraConfig>;

/** Mean KL divergence from the standard normal: −½·(1 + lv − μ² − e^lv). */
const divergence = (mean: Value, logVariance: Value): Value =>
  ops.mul(
    ops.reduceMean(
      ops.sub(ops.sub(ops.add(logVariance, 1), ops.square(mean)), ops.exp(logVariance)),
      undefined,
      false,
    ),
    -0.5,
  );

/**
 * PVeRA with a configuration. Defaults are PEFT's, with the paper's weak prior.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { pvera } from "tunesmith/methods";
 * const adaptation = pvera({ rank: 64, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const pvera = (config: z.input<typeof schema> = {}): Adaptation<PveraConfig> => ({
  method: pveraMethod,
  config: parseConfig("pvera", schema, config),
});
