import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { lu } from "../../runtime/linalg/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().optional().describe("pivots r that are trained; default: all"),
  scale: z.number().positive().default(1).describe("factor of the change of the pivots"),
});

/** Configuration of LoLDU, after defaults. */
export type LolduConfig = z.infer<typeof schema>;

const rankOf = ({ inFeatures, outFeatures }: SiteShape, { rank }: LolduConfig): number =>
  Math.min(rank ?? Number.POSITIVE_INFINITY, inFeatures, outFeatures);

/** Pivots below this share of the largest are left alone: their rows of U cannot be made unit. */
const SMALLEST = 1e-8;

/** P·L `[out, r]`, the pivots D `[r]` and U `[r, in]` with a unit diagonal, of W = P·L·diag(D)·U. */
async function decompose({ weight, site }: InitContext, rank: number) {
  const { outFeatures: rows, inFeatures: cols } = site;
  const { l, u, permutation } = lu({ rows, cols, data: await weight() });
  const largest = Array.from({ length: rank }, (_, k) => Math.abs(u.data[k * cols + k] as number)).reduce(
    (a, b) => Math.max(a, b),
    0,
  );
  const left = new Float32Array(rows * rank);
  const upper = new Float32Array(rank * cols);
  const pivots = new Float32Array(rank);
  for (let k = 0; k < rank; k++) {
    const pivot = u.data[k * cols + k] as number;
    const usable = Math.abs(pivot) > SMALLEST * largest;
    pivots[k] = usable ? pivot : 0;
    for (let row = 0; row < rows; row++)
      left[(permutation[row] as number) * rank + k] = l.data[row * l.cols + k] as number;
    for (let col = 0; col < cols; col++)
      upper[k * cols + col] = usable ? (u.data[k * cols + col] as number) / pivot : 0;
  }
  return { left, upper, pivots };
}

function tensors(site: SiteShape, config: LolduConfig): Record<string, TensorSpec> {
  const r = rankOf(site, config);
  const parts = (context: InitContext) => context.once("ldu", () => decompose(context, r));
  return {
    loldu_z: { shape: [r], trainable: true, init: async (context) => (await parts(context)).pivots.slice() },
    loldu_start: { shape: [r], trainable: false, init: async (context) => (await parts(context)).pivots },
    loldu_L: {
      shape: [site.outFeatures, r],
      trainable: false,
      init: async (context) => (await parts(context)).left,
    },
    loldu_U: {
      shape: [r, site.inFeatures],
      trainable: false,
      init: async (context) => (await parts(context)).upper,
    },
  };
}

/** Lower-diagonal-upper adaptation (arXiv 2410.13618): W = P·L·D·U, and only pivots on D are trained. */
export const lolduMethod = {
  name: "loldu",
  summary: "the pivots of each weight's triangular decomposition",
  paper: "2410.13618",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  additive: () => true,
  weight(weight, values, _, { scale }) {
    const moved = ops.sub(values.loldu_z as Value, values.loldu_start as Value);
    const left = ops.mul(values.loldu_L as Value, moved);
    return ops.gemm(left, values.loldu_U as Value, weight, { alpha: scale });
  },
  forward({ x, y, gate, tensors: values, apply, mix, perFeature }, { scale }) {
    const moved = ops.mul(ops.sub(values.loldu_z as Value, values.loldu_start as Value), gate);
    const inner = ops.mul(apply(x, values.loldu_U as Value), perFeature(moved));
    return mix(inner, values.loldu_L as Value, { onto: y, alpha: scale });
  },
} satisfies Method<LolduConfig>;

/**
 * LoLDU with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { loldu } from "tunesmith/methods";
 * const adaptation = loldu({ targets: "all-linear" });
 * ```
 */
export const loldu = (config: z.input<typeof schema> = {}): Adaptation<LolduConfig> => ({
  method: lolduMethod,
  config: parseConfig("loldu", schema, config),
});
