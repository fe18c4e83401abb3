import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { binaryPlane, quantizeBinary } from "../../tensor/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  planes: z
    .number()
    .int()
    .min(1)
    .max(8)
    .default(3)
    .describe("planes of signs q that each weight is split into"),
  rounds: z.number().int().min(0).default(15).describe("rounds of refinement of the planes"),
  train: z
    .enum(["largest", "smallest", "all"])
    .default("largest")
    .describe("whose scales are trained: the plane of the largest, of the smallest, or all"),
});

/** Configuration of AlphaTuning, after defaults. */
export type AlphaTuningConfig = z.infer<typeof schema>;

/** Numbers of the trained planes, the largest scale first. */
const trainedPlanes = ({ planes, train }: AlphaTuningConfig): number[] => {
  if (train === "all") return Array.from({ length: planes }, (_, plane) => plane);
  return [train === "largest" ? 0 : planes - 1];
};

const coded = (context: InitContext, { planes, rounds }: AlphaTuningConfig) =>
  context.once("planes", async () => {
    const { outFeatures, inFeatures } = context.site;
    return quantizeBinary(await context.weight(), outFeatures, inFeatures, { planes, rounds });
  });

function tensors(site: SiteShape, config: AlphaTuningConfig): Record<string, TensorSpec> {
  const { outFeatures: out, inFeatures: inn } = site;
  const chosen = trainedPlanes(config);
  const shape = [chosen.length, out, 1];
  const scales = async (context: InitContext) => {
    const { scales: all } = await coded(context, config);
    return Float32Array.from(
      { length: chosen.length * out },
      (_, at) => all[(at % out) * config.planes + (chosen[Math.floor(at / out)] as number)] as number,
    );
  };
  return {
    alpha_scales: { shape, trainable: true, init: scales },
    // Both follow from the base's weight: a task's file holds its scales alone.
    alpha_start: { shape, trainable: false, stored: false, init: scales },
    alpha_signs: {
      shape: [chosen.length, out, inn],
      dtype: "bool",
      trainable: false,
      stored: false,
      async init(context) {
        const found = await coded(context, config);
        const signs = new Uint8Array(chosen.length * out * inn);
        for (const [at, plane] of chosen.entries())
          signs.set(
            Uint8Array.from(binaryPlane(found, out, inn, plane), (sign) => (sign > 0 ? 1 : 0)),
            at * out * inn,
          );
        return signs;
      },
    },
  };
}

/** Σ diag(α − α₀)·B over the trained planes. */
function change({ alpha_scales: scales, alpha_start: start, alpha_signs: signs }: TensorValues): Value {
  const moved = ops.sub(scales as Value, start as Value);
  const planes = ops.where(signs as Value, moved, ops.neg(moved));
  return ops.reduceSum(planes, [0], false);
}

/**
 * AlphaTuning (arXiv 2210.03858): the weight as a sum of planes of signs with a scale per row; scales of one plane are
 * trained, the planes are shared by all tasks. What the planes leave of the given weight stays in it, so that the start is
 * the base, quantised or not: over a base of `q` planes nothing is left.
 */
export const alphaTuningMethod = {
  name: "alphatuning",
  summary: "one scale per row of a plane of signs that the weight is made of",
  paper: "2210.03858",
  schema,
  kinds: ["linear"],
  tensors,
  weight: (weight, values) => ops.add(weight, change(values)),
} satisfies Method<AlphaTuningConfig>;

/**
 * AlphaTuning with a configuration.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { alphaTuning } from "tunesmith/methods";
 * const adaptation = alphaTuning({ planes: 3, targets: "all-linear" });
 * ```
 */
export const alphaTuning = (config: z.input<typeof schema> = {}): Adaptation<AlphaTuningConfig> => ({
  method: alphaTuningMethod,
  config: parseConfig("alphatuning", schema, config),
});
