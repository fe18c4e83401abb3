import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { matchesPath } from "../../models/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec } from "../method.js";

/** Second maps of feed-forward blocks under the names that the known architectures give them. */
const FEEDFORWARD = ["down_proj", "fc2", "mlp.c_proj", "output.dense", "wo", "dense_4h_to_h", "fc_out"];

const schema = siteConfigSchema.extend({
  feedforward: z
    .union([z.string(), z.array(z.string())])
    .default(FEEDFORWARD)
    .describe(
      "modules whose inputs are scaled instead of their outputs: name endings, or a regular expression",
    ),
});

/** Configuration of (IA)³, after defaults. */
export type Ia3Config = z.infer<typeof schema>;

/** Whether a site's inputs are scaled. Endings need no dot before them, as in PEFT. */
const scalesInputs = ({ path }: SiteShape, { feedforward }: Ia3Config): boolean =>
  typeof feedforward === "string"
    ? matchesPath(path, feedforward)
    : feedforward.some((ending) => path.endsWith(ending));

const tapsOf = ({ conv }: SiteShape): number => (conv?.kernel ?? []).reduce((a, b) => a * b, 1);

/** Channels that enter: those of all groups of a convolution. */
const channelsOf = (site: SiteShape): number => (site.inFeatures / tapsOf(site)) * (site.conv?.groups ?? 1);

/** The columns of W `[out, in]` times one number per input channel. */
function scaledColumns(weight: Value, l: Value, site: SiteShape): Value {
  const [taps, groups] = [tapsOf(site), site.conv?.groups ?? 1];
  const channels = site.inFeatures / taps;
  const byGroup = ops.reshape(weight, [groups, site.outFeatures / groups, channels, taps]);
  const scaled = ops.mul(byGroup, ops.reshape(l, [groups, 1, channels, 1]));
  return ops.reshape(scaled, [site.outFeatures, site.inFeatures]);
}

const ones = (size: number): TensorSpec => ({
  shape: [size],
  trainable: true,
  init: () => new Float32Array(size).fill(1),
});

/** (IA)³ (arXiv 2205.05638): outputs of attention's maps, and inputs of feed-forward ones, times a learned vector. */
export const ia3Method = {
  name: "ia3",
  summary: "one learned factor per output, or per input of feed-forward maps",
  paper: "2205.05638",
  schema,
  kinds: ["linear", "conv"],
  tensors: (site, config): Record<string, TensorSpec> =>
    scalesInputs(site, config) ? { ia3_l_inputs: ones(channelsOf(site)) } : { ia3_l: ones(site.outFeatures) },
  weight: (weight, { ia3_l: l, ia3_l_inputs: inputs }, site) =>
    inputs ? scaledColumns(weight, inputs, site) : ops.mul(weight, ops.unsqueeze(l as Value, 1)),
  biasDelta: ({ ia3_l: l }, _, __, bias) => bias && l && ops.mul(bias, ops.sub(l, 1)),
  forward({ x, y, bias, gate, weight, apply, perFeature, tensors: { ia3_l: l, ia3_l_inputs: inputs } }) {
    const factor = perFeature(ops.add(ops.mul(ops.sub((l ?? inputs) as Value, 1), gate), 1));
    if (!inputs) return ops.mul(y, factor);
    const product = apply(ops.mul(x, factor), weight());
    return bias ? ops.add(product, bias) : product;
  },
} satisfies Method<Ia3Config>;

/**
 * (IA)³ with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { ia3 } from "tunesmith/methods";
 * const adaptation = ia3({ targets: ["k_proj", "v_proj", "down_proj"] });
 * ```
 */
export const ia3 = (config: z.input<typeof schema> = {}): Adaptation<Ia3Config> => ({
  method: ia3Method,
  config: parseConfig("ia3", schema, config),
});
