import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { addAt } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  sparsity: z.number().min(0).lt(1).default(0.99).describe("share of the entries that stay as they are"),
  select: z
    .enum(["largest", "smallest"])
    .default("largest")
    .describe("which entries are trained, by their magnitude"),
  rank: z.number().int().positive().optional().describe("rank of a low-rank update beside; default: none"),
  alpha: z.number().positive().optional().describe("its scale is alpha / rank; default: 2 · rank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the low-rank update"),
  saveIndices: z
    .boolean()
    .default(true)
    .describe("write the places of the entries into files; else they are found in the base again"),
});

/** Configuration of Super-Tuning, after defaults. */
export type SupertuningConfig = z.infer<typeof schema>;

function entriesOf({ path, inFeatures, outFeatures }: SiteShape, { sparsity }: SupertuningConfig): number {
  const count = Math.trunc(inFeatures * outFeatures * (1 - sparsity));
  if (count > 0) return count;
  throw new TunesmithError("config-invalid", `sparsity: ${sparsity} leaves no entry of ${path} to train`, {
    fix: "choose a smaller one",
    details: { path },
  });
}

/** Flat places of the entries of largest, or smallest, magnitude, in that order; of equals the first ones. */
async function places({ site, weight }: InitContext, config: SupertuningConfig): Promise<Int32Array> {
  const sizes = (await weight()).map(Math.abs);
  const sign = config.select === "largest" ? -1 : 1;
  const order = Int32Array.from(sizes.keys()).sort(
    (a, b) => sign * ((sizes[a] as number) - (sizes[b] as number)) || a - b,
  );
  return order.slice(0, entriesOf(site, config));
}

function tensors(site: SiteShape, config: SupertuningConfig): Record<string, TensorSpec> {
  const { inFeatures, outFeatures } = site;
  const count = entriesOf(site, config);
  const sparse: Record<string, TensorSpec> = {
    supertuning_values: { shape: [count], trainable: true, init: () => new Float32Array(count) },
    supertuning_indices: {
      shape: [count],
      dtype: "int32",
      trainable: false,
      stored: config.saveIndices,
      init: (context) => places(context, config),
    },
  };
  const { rank } = config;
  if (rank === undefined) return sparse;
  const bound = 1 / Math.sqrt(inFeatures);
  return {
    ...sparse,
    supertuning_lora_A: {
      shape: [rank, inFeatures],
      trainable: true,
      init: ({ uniform }) => uniform(rank * inFeatures, -bound, bound),
    },
    supertuning_lora_B: {
      shape: [outFeatures, rank],
      trainable: true,
      init: () => new Float32Array(outFeatures * rank),
    },
  };
}

/** Scale of the low-rank update; 0 for none. */
const scaleOf = ({ rank, alpha }: SupertuningConfig): number =>
  rank === undefined ? 0 : (alpha ?? 2 * rank) / rank;

const sparsely = (weight: Value, values: TensorValues, gate?: Value): Value => {
  const entries = values.supertuning_values as Value;
  const at = ops.cast(values.supertuning_indices as Value, "int64");
  return addAt(weight, at, gate ? ops.mul(entries, gate) : entries);
};

/**
 * Super-Tuning (arXiv 2607.09287): W' = W + S, S on the entries of largest magnitude; with a rank ("Supra") W + S + s·B·A.
 */
export const supertuningMethod = {
  name: "supertuning",
  summary: "additions to the largest weights, perhaps with a low-rank update beside",
  paper: "2607.09287",
  schema,
  kinds: ["linear"],
  tensors,
  additive: () => true,
  sized: (size) => ({ sparsity: 1 - size / 2000 }),
  weight(weight, values, _, config) {
    const moved = sparsely(weight, values);
    const scale = scaleOf(config);
    if (scale === 0) return moved;
    const { supertuning_lora_A: a, supertuning_lora_B: b } = values;
    return ops.gemm(b as Value, a as Value, moved, { alpha: scale });
  },
  forward({ x, weight, bias, gate, apply, mix, dropped, perFeature, tensors: values }, config) {
    const scale = scaleOf(config);
    if (scale === 0) return undefined;
    const product = apply(x, sparsely(weight(), values, gate));
    const y = bias ? ops.add(product, perFeature(bias)) : product;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const inner = ops.mul(apply(input, values.supertuning_lora_A as Value), gate);
    return mix(inner, values.supertuning_lora_B as Value, { onto: y, alpha: scale });
  },
} satisfies Method<SupertuningConfig>;

/**
 * Super-Tuning with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does a weight of so few entries that none is trained.
 *
 * @example
 * ```ts
 * import { supertuning } from "tunesmith/methods";
 * const plain = supertuning({ sparsity: 0.995, targets: "all-linear" });
 * const supra = supertuning({ rank: 8, targets: "all-linear" });
 * ```
 */
export const supertuning = (config: z.input<typeof schema> = {}): Adaptation<SupertuningConfig> => ({
  method: supertuningMethod,
  config: parseConfig("supertuning", schema, config),
});
