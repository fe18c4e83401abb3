import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  variant: z
    .enum(["road_1", "road_2", "road_4"])
    .default("road_1")
    .describe("numbers that each pair of outputs has for its angle, and for its size: one, two or four"),
  groupSize: z
    .number()
    .int()
    .positive()
    .default(64)
    .describe("outputs g of a group, even: j turns with j + g / 2"),
});

/** Configuration of RoAd, after defaults. */
export type RoadConfig = z.infer<typeof schema>;

const TIMES = { road_1: 0.5, road_2: 1, road_4: 2 } as const;

function tensors(
  { path, outFeatures }: SiteShape,
  { variant, groupSize }: RoadConfig,
): Record<string, TensorSpec> {
  if (groupSize % 2 !== 0 || outFeatures % groupSize !== 0) {
    throw new TunesmithError(
      "config-invalid",
      `groupSize: ${groupSize} is odd, or does not divide the ${outFeatures} outputs of ${path}`,
      { fix: "choose an even divisor", details: { path } },
    );
  }
  const count = outFeatures * TIMES[variant];
  const filled = (value: number): TensorSpec => ({
    shape: [count],
    trainable: true,
    init: () => new Float32Array(count).fill(value),
  });
  return { road_theta: filled(0), road_alpha: filled(1) };
}

/** What each output is multiplied with, and what its partner is before it is added: α·cos θ and α·sin θ, `[out]`. */
function columns(
  values: TensorValues,
  { outFeatures }: SiteShape,
  { variant, groupSize }: RoadConfig,
): [Value, Value] {
  const [theta, alpha] = [values.road_theta as Value, values.road_alpha as Value];
  const part = (all: Value, at: 0 | 1): Value => {
    if (variant === "road_2") return all;
    if (variant === "road_4")
      return ops.reshape(ops.slice(ops.reshape(all, [-1, 2, groupSize]), 1, at, at + 1), [outFeatures]);
    const halves = ops.reshape(all, [outFeatures / groupSize, 1, groupSize / 2]);
    return ops.reshape(ops.concat([halves, halves], 1), [outFeatures]);
  };
  return [ops.mul(part(alpha, 0), ops.cos(part(theta, 0))), ops.mul(part(alpha, 1), ops.sin(part(theta, 1)))];
}

/** Outputs `[…, out]`, or rows of a matrix `[out, width]`, with the halves of every group swapped, the first one negated. */
function partners(y: Value, groupSize: number, width = 1): Value {
  const halves = ops.reshape(y, [-1, 2, (groupSize / 2) * width]);
  const swapped = ops.concat([ops.neg(ops.slice(halves, 1, 1, 2)), ops.slice(halves, 1, 0, 1)], 1);
  return ops.reshape(swapped, y.shape, [y]);
}

/** RoAd (arXiv 2409.00119): W' = R·W and b' = R·b, R a scaled rotation of pairs of outputs. */
export const roadMethod = {
  name: "road",
  summary: "pairs of outputs turned and scaled",
  paper: "2409.00119",
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, site, config) {
    const [own, other] = columns(values, site, config).map((column) => ops.unsqueeze(column, 1)) as [
      Value,
      Value,
    ];
    const turned = partners(weight, config.groupSize, site.inFeatures);
    return ops.add(ops.mul(weight, own), ops.mul(turned, other));
  },
  biasDelta(values, site, config, bias) {
    if (!bias) return undefined;
    const [own, other] = columns(values, site, config);
    return ops.add(ops.mul(bias, ops.sub(own, 1)), ops.mul(partners(bias, config.groupSize), other));
  },
  forward({ y, gate, site, tensors: values }, config) {
    const [own, other] = columns(values, site, config);
    const moved = ops.add(ops.mul(y, ops.sub(own, 1)), ops.mul(partners(y, config.groupSize), other));
    return ops.add(y, ops.mul(moved, gate));
  },
} satisfies Method<RoadConfig>;

/**
 * RoAd with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does adapting a map whose outputs the groups do not divide.
 *
 * @example
 * ```ts
 * import { road } from "tunesmith/methods";
 * const adaptation = road({ variant: "road_2", groupSize: 32, targets: "all-linear" });
 * ```
 */
export const road = (config: z.input<typeof schema> = {}): Adaptation<RoadConfig> => ({
  method: roadMethod,
  config: parseConfig("road", schema, config),
});
