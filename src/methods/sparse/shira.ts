import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { mt19937 } from "../../runtime/random/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z
    .number()
    .int()
    .positive()
    .default(32)
    .describe("as many entries are trained as LoRA of this rank has numbers"),
  maskSeed: z
    .number()
    .int()
    .nonnegative()
    .optional()
    .describe(
      "seed of the entries, the same in every module of one shape; default: the adapter's own, per module",
    ),
});

/** Configuration of SHiRA, after defaults. */
export type ShiraConfig = z.infer<typeof schema>;

function entriesOf({ path, inFeatures, outFeatures }: SiteShape, { rank }: ShiraConfig): number {
  const count = rank * (inFeatures + outFeatures);
  if (count <= inFeatures * outFeatures) return count;
  throw new TunesmithError(
    "config-invalid",
    `rank: ${count} entries of ${path} are asked for, which has ${inFeatures * outFeatures}`,
    { fix: "choose a smaller rank", details: { path } },
  );
}

/** Rows, then columns, of the trained entries, ascending. */
function randomPlaces({ site, uniform }: InitContext, config: ShiraConfig): Int32Array {
  const { inFeatures, outFeatures } = site;
  const count = entriesOf(site, config);
  const seed = config.maskSeed ?? Math.floor(uniform(1, 0, 2 ** 31)[0] as number);
  const chosen = mt19937(seed)
    .randperm(inFeatures * outFeatures)
    .slice(0, count)
    .sort();
  const places = new Int32Array(2 * count);
  chosen.forEach((place, at) => {
    places[at] = Math.floor(place / inFeatures);
    places[count + at] = place % inFeatures;
  });
  return places;
}

/** SHiRA (arXiv 2406.13175): W' = W + S, S sparse with fixed random places. */
export const shiraMethod = {
  name: "shira",
  summary: "additions to a few entries of the weight, at random places",
  paper: "2406.13175",
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const count = entriesOf(site, config);
    return {
      shira_weight: { shape: [count], trainable: true, init: () => new Float32Array(count) },
      shira_indices: {
        shape: [2, count],
        dtype: "int32",
        trainable: false,
        init: (context) => randomPlaces(context, config),
      },
    };
  },
  additive: () => true,
  weight(weight, { shira_weight: entries, shira_indices: indices }) {
    const places = ops.transpose(ops.cast(indices as Value, "int64"), [1, 0]);
    return ops.scatterNd(weight, places, entries as Value, "add");
  },
} satisfies Method<ShiraConfig>;

/**
 * SHiRA with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does adapting a weight of fewer entries than the rank asks for.
 *
 * @example
 * ```ts
 * import { shira } from "tunesmith/methods";
 * const adaptation = shira({ rank: 8, targets: "all-linear" });
 * ```
 */
export const shira = (config: z.input<typeof schema> = {}): Adaptation<ShiraConfig> => ({
  method: shiraMethod,
  config: parseConfig("shira", schema, config),
});
