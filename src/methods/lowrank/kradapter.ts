import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  scale: z.number().positive().default(2).describe("factor s of the update"),
  factorSplit: z
    .enum(["max", "min"])
    .default("max")
    .describe("first factor as wide as the square root of the larger or of the smaller dimension"),
});

/** Configuration of KRAdapter, after defaults. */
export type KradapterConfig = z.infer<typeof schema>;

/** Rows n (the small side), columns N (the large side), and the widths k1·k2 ≥ N of the two factors. */
export function khatriRaoWidths({ inFeatures, outFeatures }: SiteShape, { factorSplit }: KradapterConfig) {
  const [small, large] = [Math.min(inFeatures, outFeatures), Math.max(inFeatures, outFeatures)];
  const first = Math.floor(Math.sqrt(factorSplit === "max" ? large : small));
  return { small, large, first, second: Math.ceil(large / first) };
}

/** s·ΔW `[out, in]`: row j of the small side is u_j ⊗ v_j, cut to the large side. */
function update({ kr_u: u, kr_v: v }: TensorValues, site: SiteShape, config: KradapterConfig): Value {
  const { small, large, first, second } = khatriRaoWidths(site, config);
  const products = ops.mul(ops.unsqueeze(u as Value, 2), ops.unsqueeze(v as Value, 1));
  const rows = ops.slice(ops.reshape(products, [small, first * second]), 1, 0, large);
  const oriented = site.outFeatures === small ? rows : ops.transpose(rows, [1, 0]);
  return ops.mul(oriented, config.scale);
}

/** Khatri-Rao adaptation (arXiv 2508.00230): an update of full rank for the parameters of a low-rank one. */
export const kradapterMethod = {
  name: "kradapter",
  summary: "full-rank update as a row-wise Kronecker product of two thin matrices",
  paper: "2508.00230",
  schema,
  kinds: ["linear", "conv"],
  tensors(site, config) {
    const { small, first, second } = khatriRaoWidths(site, config);
    const bound = 1 / Math.sqrt(second);
    return {
      kr_u: { shape: [small, first], trainable: true, init: () => new Float32Array(small * first) },
      kr_v: {
        shape: [small, second],
        trainable: true,
        init: (context) => context.uniform(small * second, -bound, bound),
      },
    };
  },
  additive: () => true,
  weight: (weight, values, site, config) => ops.add(weight, update(values, site, config)),
} satisfies Method<KradapterConfig>;

/**
 * KRAdapter with a configuration; it has no rank. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { kradapter } from "tunesmith/methods";
 * const adaptation = kradapter({ targets: ["q_proj", "v_proj"] });
 * ```
 */
export const kradapter = (config: z.input<typeof schema> = {}): Adaptation<KradapterConfig> => ({
  method: kradapterMethod,
  config: parseConfig("kradapter", schema, config),
});
