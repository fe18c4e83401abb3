import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { allocateSubspaces } from "./subspace-allocation.js";
import { type Subspaces, subspacesOf } from "./subspaces.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(100).describe("singular vectors r that everything happens in"),
  subspaces: z.number().int().positive().default(5).describe("clusters K of each weight's rows"),
  subspaceRank: z
    .number()
    .int()
    .positive()
    .default(1)
    .describe("trained directions of each cluster, at most"),
  dynamicRank: z
    .boolean()
    .default(false)
    .describe("fewer directions for a cluster whose singular values fall off"),
  threshold: z
    .number()
    .gt(0)
    .lt(1)
    .default(0.1)
    .describe("with dynamicRank: squared singular values below this share of the largest do not count"),
  basisSeed: z.number().int().nonnegative().default(0).describe("seed of the decomposition"),
  keep: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("clusters of all modules together that are still trained at the end; default: all"),
  keepAfter: z.number().int().min(0).default(50).describe("updates before clusters are frozen"),
  keepBefore: z.number().int().positive().default(1000).describe("updates until `keep` are left"),
  interval: z.number().int().positive().default(100).describe("updates between two choices"),
  beta1: z.number().gt(0).lt(1).default(0.85).describe("smoothing of an entry's sensitivity"),
  beta2: z.number().gt(0).lt(1).default(0.85).describe("smoothing of its uncertainty"),
  exponent: z
    .number()
    .positive()
    .default(3)
    .describe("how much faster than evenly clusters are frozen at first"),
});

/** Configuration of AdaMSS, after defaults. */
export type AdamssConfig = z.infer<typeof schema>;

/** r, K and the inputs of a site, its bias counting as one. */
function sizesOf(site: SiteShape, config: AdamssConfig) {
  const columns = site.inFeatures + (site.hasBias ? 1 : 0);
  const rank = Math.min(config.rank, site.outFeatures, columns);
  if (rank === site.outFeatures) {
    throw new TunesmithError(
      "config-invalid",
      `adamss: rank ${config.rank} takes in all ${rank} outputs of ${site.path}, among which there are no clusters then`,
      { fix: `choose a rank below ${rank}`, details: { path: site.path } },
    );
  }
  return { columns, rank, clusters: Math.min(config.subspaces, site.outFeatures) };
}

/** The decomposition of [W, b], once for all tensors of a site. */
const started = (context: InitContext, config: AdamssConfig): Promise<Subspaces> =>
  context.once("subspaces", async () => {
    const { site } = context;
    const { columns, rank, clusters } = sizesOf(site, config);
    const [weight, bias] = [await context.weight(), await context.bias?.()];
    const data = new Float32Array(site.outFeatures * columns);
    for (let row = 0; row < site.outFeatures; row++) {
      data.set(weight.subarray(row * site.inFeatures, (row + 1) * site.inFeatures), row * columns);
      if (bias) data[row * columns + site.inFeatures] = bias[row] as number;
    }
    return subspacesOf(
      { rows: site.outFeatures, cols: columns, data },
      {
        rank,
        subspaces: clusters,
        width: config.subspaceRank,
        threshold: config.dynamicRank ? config.threshold : undefined,
        seed: config.basisSeed,
      },
    );
  });

function tensors(site: SiteShape, config: AdamssConfig): Record<string, TensorSpec> {
  const { columns, rank, clusters } = sizesOf(site, config);
  const width = config.subspaceRank;
  const from = <T extends Float32Array | Int32Array>(take: (start: Subspaces) => T) => {
    return async (context: InitContext) => take(await started(context, config)).slice();
  };
  return {
    adamss_newB: { shape: [rank, columns], trainable: false, init: from(({ basis }) => basis) },
    adamss_clusters: {
      shape: [site.outFeatures],
      dtype: "int32",
      trainable: false,
      stored: false,
      init: from((start) => start.clusters),
    },
    adamss_ranks: {
      shape: [clusters],
      dtype: "int32",
      trainable: false,
      stored: false,
      init: from(({ ranks }) => ranks),
    },
    adamss_A: { shape: [clusters, width, rank], trainable: true, init: from(({ directions }) => directions) },
    adamss_B: {
      shape: [site.outFeatures, width],
      trainable: true,
      init: () => new Float32Array(site.outFeatures * width),
    },
  };
}

/** The update of [W, b] as b·a: all clusters' directions as far as their ranks go, and B with the columns of its row's cluster alone. */
function factors(values: TensorValues): { a: Value; b: Value } {
  const [count, width, rank] = (values.adamss_A as Value).shape as [number, number, number];
  const rows = (values.adamss_B as Value).shape[0] as number;
  const all = ops.arange(count, "int32");
  const used = ops.less(ops.arange(width, "int32"), ops.unsqueeze(values.adamss_ranks as Value, 1));
  const directions = ops.mul(values.adamss_A as Value, ops.unsqueeze(ops.cast(used, "float32"), 2));
  const own = ops.cast(ops.equal(ops.unsqueeze(values.adamss_clusters as Value, 1), all), "float32");
  const spread = ops.mul(ops.unsqueeze(own, 2), ops.unsqueeze(values.adamss_B as Value, 1));
  return {
    a: ops.matmul(ops.reshape(directions, [count * width, rank]), values.adamss_newB as Value),
    b: ops.reshape(spread, [rows, count * width]),
  };
}

/** The part for the weight, and that for the bias, `[1, K·width]`. */
function split(a: Value, { inFeatures }: SiteShape): { a: Value; constant: Value | undefined } {
  if (a.shape[1] === inFeatures) return { a, constant: undefined };
  return {
    a: ops.slice(a, 1, 0, inFeatures),
    constant: ops.transpose(ops.slice(a, 1, inFeatures, inFeatures + 1), [1, 0]),
  };
}

/**
 * AdaMSS (NeurIPS 2025): rows of [W, b] fall into K clusters by their singular vectors N, and those of a cluster share a few
 * trained directions of N: W'ₖ = Wₖ + Bₖ·Aₖ·N.
 */
export const adamssMethod = {
  name: "adamss",
  summary: "a low-rank update for each cluster of rows, in the weight's own singular vectors",
  paper: "https://openreview.net/forum?id=8ZdWmpYxT0",
  schema,
  kinds: ["linear"],
  sized: (size) => ({ subspaceRank: size }),
  tensors,
  weight(weight, values, site) {
    const { a, b } = factors(values);
    return ops.gemm(b, split(a, site).a, weight);
  },
  lowRank(_, values, site) {
    const { a, b } = factors(values);
    // A low-rank update has no place for what the bias gets.
    return site.hasBias ? undefined : { a, b };
  },
  biasDelta(values, site) {
    const { a, b } = factors(values);
    const { constant } = split(a, site);
    return constant && ops.squeeze(ops.gemm(b, constant, undefined, { transB: true }), 1);
  },
  forward({ x, y, gate, tensors: values, site, apply, mix }) {
    const { a, b } = factors(values);
    const parts = split(a, site);
    const along = apply(x, parts.a);
    const h = parts.constant ? ops.add(along, parts.constant) : along;
    return mix(ops.mul(h, gate), b, { onto: y });
  },
  hooks: allocateSubspaces,
} satisfies Method<AdamssConfig>;

/**
 * AdaMSS with a configuration. Defaults are PEFT's. With `keep`, clusters that matter least are frozen while it trains.
 *
 * Throws `config-invalid` naming the field; so does adapting a map with a rank that takes in all of its outputs.
 *
 * @example
 * ```ts
 * import { adamss } from "tunesmith/methods";
 * const adaptation = adamss({ rank: 64, subspaces: 5, subspaceRank: 2, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const adamss = (config: z.input<typeof schema> = {}): Adaptation<AdamssConfig> => ({
  method: adamssMethod,
  config: parseConfig("adamss", schema, config),
});
