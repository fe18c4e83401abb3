import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorValues } from "../method.js";
import { loraOptions, uniformMatrix, zeroMatrix } from "./lora-options.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  ...loraOptions,
  groupSize: z.number().int().positive().default(16).describe("inputs g that share one number of the update"),
});

/** Configuration of QA-LoRA, after defaults. */
export type QaloraConfig = z.infer<typeof schema>;

function groupsOf({ path, inFeatures }: SiteShape, { groupSize }: QaloraConfig): number {
  if (inFeatures % groupSize === 0) return inFeatures / groupSize;
  throw new TunesmithError(
    "config-invalid",
    `groupSize: ${groupSize} does not divide the ${inFeatures} inputs of ${path}`,
    {
      fix: "choose a divisor",
      details: { path },
    },
  );
}

/** s·B, times the number of groups: inputs are averaged within a group, and the sum over groups kept as large as LoRA's. */
const scaleOf = (site: SiteShape, config: QaloraConfig): number =>
  loraScale(site.path, config).scale * groupsOf(site, config);

/** A over all inputs `[r, in]`: each number for a whole group, as its mean takes it. */
function wide({ lora_A: a }: TensorValues, { groupSize }: QaloraConfig): Value {
  const [rank, groups] = (a as Value).shape as [number, number];
  const repeated = ops.tile(ops.unsqueeze(a as Value, 2), [1, 1, groupSize]);
  return ops.mul(ops.reshape(repeated, [rank, groups * groupSize]), 1 / groupSize);
}

/**
 * QA-LoRA (arXiv 2309.14717): a low-rank update that is constant over groups of inputs, so that a weight quantised in those
 * groups takes it up in its zero points.
 */
export const qaloraMethod = {
  name: "qalora",
  summary: "low-rank update that is constant over groups of inputs, as a quantised weight's zero points are",
  paper: "2309.14717",
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const { rank } = loraScale(site.path, config);
    return {
      lora_A: uniformMatrix(rank, groupsOf(site, config)),
      lora_B: zeroMatrix(site.outFeatures, rank),
    };
  },
  additive: () => true,
  weight: (weight, values, site, config) =>
    ops.gemm(values.lora_B as Value, wide(values, config), weight, { alpha: scaleOf(site, config) }),
  lowRank: (_, values, site, config) => ({
    a: wide(values, config),
    b: ops.mul(values.lora_B as Value, scaleOf(site, config)),
  }),
  forward({ x, y, gate, site, tensors: values, mix, dropped }, config) {
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const grouped = ops.reshape(input, [-1, groupsOf(site, config), config.groupSize], [input]);
    const means = ops.reduceMean(grouped, [2], false);
    const code = ops.gemm(means, values.lora_A as Value, undefined, { transB: true });
    return mix(ops.mul(code, gate), values.lora_B as Value, { onto: y, alpha: scaleOf(site, config) });
  },
} satisfies Method<QaloraConfig>;

/**
 * QA-LoRA with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does adapting a map whose inputs groups do not divide.
 *
 * @example
 * ```ts
 * import { qalora } from "tunesmith/methods";
 * const adaptation = qalora({ rank: 8, groupSize: 32, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const qalora = (config: z.input<typeof schema> = {}): Adaptation<QaloraConfig> => ({
  method: qaloraMethod,
  config: parseConfig("qalora", schema, config),
});
