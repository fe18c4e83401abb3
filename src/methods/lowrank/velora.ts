import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteCall, SiteShape } from "../method.js";
import { loraOptions, plainFactors } from "./lora-options.js";
import { ontoOutput, plainUpdate } from "./plain-update.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  ...loraOptions,
  groups: z
    .number()
    .int()
    .positive()
    .default(64)
    .describe("numbers kept of each token's input for the gradient of A, one for each group of features"),
  direction: z
    .enum(["batch", "once", "random"])
    .default("batch")
    .describe(
      "what groups are projected on: the mean group of each batch, that of calibration data, or a random one",
    ),
  reconstruction: z
    .number()
    .positive()
    .default(1)
    .describe("factor on the inputs as the backward pass gets them back"),
});

/** Configuration of VeLoRA, after defaults. */
export type VeloraConfig = z.infer<typeof schema>;

/** Features of a group; the last ones are filled up with zeros. */
const widthOf = ({ inFeatures }: SiteShape, { groups }: VeloraConfig): number =>
  Math.ceil(inFeatures / groups);

/** As long as 1; a vector of zeros stands for one of ones. */
function unit(v: Float32Array): Float32Array {
  const length = Math.hypot(...v);
  return v.map((value) => (length > 0 ? value / length : 1 / Math.sqrt(v.length)));
}

async function direction(
  { site, normal, statistic }: InitContext,
  config: VeloraConfig,
): Promise<Float32Array> {
  const width = widthOf(site, config);
  // The batch's is computed with the batch; what files hold says nothing then.
  if (config.direction === "batch") return new Float32Array(width);
  if (config.direction === "random") return unit(normal(width));
  const sums = new Float32Array(width);
  for (const [at, value] of (await statistic("inputMean")).entries())
    sums[at % width] = Number(sums[at % width]) + value;
  return unit(sums);
}

/** `x` `[tokens, in]` as groups, `[tokens, groups, width]`. */
function grouped(x: Value, site: SiteShape, config: VeloraConfig): Value {
  const width = widthOf(site, config);
  const more = config.groups * width - site.inFeatures;
  return ops.reshape(more > 0 ? ops.pad(x, [0, 0], [0, more]) : x, [-1, config.groups, width], [x]);
}

/** The unit vector of the mean group, over rows that are of data. */
function meanGroup(groups: Value, mask: Value | undefined): Value {
  const counted = mask ? ops.mul(groups, ops.unsqueeze(mask, 1, 2)) : groups;
  const sum = ops.reduceSum(counted, [0, 1], false);
  const length = ops.reduceL2(sum, [0]);
  const isZero = ops.equal(length, 0);
  return ops.where(isZero, 1 / Math.sqrt(Number(sum.shape[0])), ops.div(sum, ops.where(isZero, 1, length)));
}

/** The vector `[width]` that groups are projected on. A stored one of zeros was never set. */
function projection({ tensors, mask }: SiteCall, groups: Value, config: VeloraConfig): Value {
  if (config.direction === "batch") return meanGroup(groups, mask);
  const stored = tensors.lora_velora_embed as Value;
  const isSet = ops.greater(ops.reduceL2(stored, [0]), 0);
  return config.direction === "random" ? stored : ops.where(isSet, stored, meanGroup(groups, mask));
}

/** A·x, whose gradient by A sees of x its components along the direction only, and whose gradient by x is exact. */
function compressed(call: SiteCall, x: Value, config: VeloraConfig): Value {
  const { site, tensors } = call;
  const a = tensors.lora_A as Value;
  const groups = grouped(x, site, config);
  const v = ops.stopGradient(projection(call, groups, config));
  const codes = ops.stopGradient(
    ops.reshape(ops.matmul(groups, ops.unsqueeze(v, 1)), [-1, config.groups], [x]),
  );
  // Codes are computed while x is there, or it would be kept for them.
  const h = ops.after(call.apply(x, a), codes);
  return ops.customVjp(h, [x, a], [codes, v], ({ wrt, saved }, dy) => {
    const [code, along] = saved as [Value, Value];
    const rows = ops.gemm(dy, code, undefined, { transA: true, alpha: config.reconstruction });
    const whole = ops.reshape(ops.mul(ops.unsqueeze(rows, 2), along), [Number(dy.shape[1]), -1]);
    return [ops.gemm(dy, wrt[1] as Value), ops.slice(whole, 1, 0, site.inFeatures)];
  });
}

/**
 * VeLoRA (arXiv 2405.17991): LoRA whose backward pass keeps of A's inputs one number for each group of features, the component along
 * a fixed unit vector, in the place of the inputs. The gradient of A is that of the projected inputs; all others, and the forward pass,
 * are LoRA's.
 */
export const veloraMethod = {
  name: "velora",
  summary: "low-rank update that is trained from inputs compressed to a number per group of features",
  paper: "2405.17991",
  schema,
  kinds: ["linear"],
  needs: (config) => (config.direction === "once" ? ["inputMean"] : []),
  tensors(site, config) {
    return {
      ...plainFactors(site, loraScale(site.path, config).rank),
      lora_velora_embed: {
        shape: [widthOf(site, config)],
        trainable: false,
        init: (context) => direction(context, config),
      },
    };
  },
  ...plainUpdate,
  forward(call, config) {
    const { x, tensors, apply, dropped, training } = call;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const h = training ? compressed(call, input, config) : apply(input, tensors.lora_A as Value);
    return ontoOutput(call, h, config);
  },
} satisfies Method<VeloraConfig>;

/**
 * VeLoRA with a configuration. Defaults are PEFT's. `direction: "once"` reads calibration data, where PEFT reads the first batch.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { velora } from "tunesmith/methods";
 * const adaptation = velora({ rank: 8, groups: 32, targets: ["q_proj", "v_proj", "down_proj"] });
 * ```
 */
export const velora = (config: z.input<typeof schema> = {}): Adaptation<VeloraConfig> => ({
  method: veloraMethod,
  config: parseConfig("velora", schema, config),
});
