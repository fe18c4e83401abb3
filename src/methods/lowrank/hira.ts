import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(32).describe("rank r of the factor"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  init: z.enum(["default", "gaussian"]).default("default").describe("how A starts; B starts at zero"),
});

/** Configuration of HiRA, after defaults. */
export type HiraConfig = z.infer<typeof schema>;

const nameOf = (site: SiteShape, factor: "A" | "B") =>
  site.kind === "embedding" ? `hira_embedding_${factor}` : `hira_${factor}`;

function tensors(site: SiteShape, config: HiraConfig): Record<string, TensorSpec> {
  const { rank } = config;
  const { inFeatures, outFeatures } = site;
  const bound = 1 / Math.sqrt(inFeatures);
  const isEmbedding = site.kind === "embedding";
  const zeros = (count: number) => new Float32Array(count);
  return {
    [nameOf(site, "A")]: {
      shape: [rank, inFeatures],
      trainable: true,
      init({ normal, uniform }) {
        if (isEmbedding) return zeros(rank * inFeatures);
        if (config.init === "gaussian") return normal(rank * inFeatures, 1 / rank);
        return uniform(rank * inFeatures, -bound, bound);
      },
    },
    [nameOf(site, "B")]: {
      shape: [outFeatures, rank],
      trainable: true,
      init: ({ normal }) => (isEmbedding ? normal(outFeatures * rank) : zeros(outFeatures * rank)),
    },
  };
}

/** B·A, `[out, in]`. */
const product = (values: TensorValues, site: SiteShape): Value =>
  ops.matmul(values[nameOf(site, "B")] as Value, values[nameOf(site, "A")] as Value);

/** HiRA (ICLR 2025): W' = W ∘ (1 + B·A), an update of high rank from a low-rank factor. */
export const hiraMethod = {
  name: "hira",
  summary: "the weight times a low-rank matrix, entry by entry",
  paper: "https://openreview.net/forum?id=TwJrTz9cRS",
  schema,
  kinds: ["linear", "embedding", "conv"],
  tensors,
  weight: (weight, values, site) => ops.add(weight, ops.mul(weight, product(values, site))),
  forward({ x, y, gate, apply, dropped, training, weight, site, tensors: values }, { dropout }) {
    if (!training || dropout === 0 || site.kind === "embedding") return undefined;
    const update = apply(dropped(x, dropout), ops.mul(weight(), product(values, site)));
    return ops.add(y, ops.mul(update, gate));
  },
} satisfies Method<HiraConfig>;

/**
 * HiRA with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { hira } from "tunesmith/methods";
 * const adaptation = hira({ rank: 16, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const hira = (config: z.input<typeof schema> = {}): Adaptation<HiraConfig> => ({
  method: hiraMethod,
  config: parseConfig("hira", schema, config),
});
