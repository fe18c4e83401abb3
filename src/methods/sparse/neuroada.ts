import { z } from "zod";
import type { Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape } from "../method.js";
import { addInRows, largest } from "./places.js";

const schema = siteConfigSchema.extend({
  connections: z
    .number()
    .int()
    .positive()
    .default(1)
    .describe(
      "trained connections k of every neuron (output feature); the fewer, the higher the learning rate",
    ),
  select: z
    .enum(["magnitude", "gradient", "random", "reverse"])
    .default("magnitude")
    .describe(
      "which of its inputs a neuron is connected to anew: those of the largest weights, of the largest gradients over calibration data, any, or of the smallest weights",
    ),
  shareColumns: z
    .boolean()
    .default(false)
    .describe("the same inputs for all neurons of a module: those that most of them would choose"),
});

/** Configuration of NeuroAda, after defaults. */
export type NeuroadaConfig = z.infer<typeof schema>;

const connectionsOf = ({ inFeatures }: SiteShape, { connections }: NeuroadaConfig): number =>
  Math.min(connections, inFeatures);

/** What each connection is chosen by, `[out, in]`: the larger the better. */
async function scores(context: InitContext, { select }: NeuroadaConfig): Promise<Float32Array> {
  if (select === "gradient") return context.statistic("gradient");
  const { inFeatures, outFeatures } = context.site;
  if (select === "random") return context.uniform(outFeatures * inFeatures, 0, 1);
  const weight = await context.weight();
  return select === "magnitude" ? weight : weight.map((value) => 1 / (Math.abs(value) + 1e-30));
}

/** Input numbers int32 `[out, k]`, ascending in every row. */
async function chooseColumns(context: InitContext, config: NeuroadaConfig): Promise<Int32Array> {
  const { inFeatures, outFeatures } = context.site;
  const count = connectionsOf(context.site, config);
  const found = await scores(context, config);
  const columns = new Int32Array(outFeatures * count);
  for (let row = 0; row < outFeatures; row++)
    columns.set(largest(found.subarray(row * inFeatures, (row + 1) * inFeatures), count), row * count);
  if (!config.shareColumns) return columns;
  const votes = new Float32Array(inFeatures);
  for (const column of columns) votes[column] = Number(votes[column]) + 1;
  const shared = largest(votes, count);
  for (let row = 0; row < outFeatures; row++) columns.set(shared, row * count);
  return columns;
}

/** NeuroAda (arXiv 2510.18940): W' = W + Θ at k fixed places of every row. */
export const neuroadaMethod = {
  name: "neuroada",
  summary: "additions to the few largest weights of every neuron",
  paper: "2510.18940",
  sized: (size) => ({ connections: size }),
  schema,
  kinds: ["linear", "conv"],
  needs: ({ select }) => (select === "gradient" ? ["gradient"] : []),
  tensors(site, config) {
    const shape = [site.outFeatures, connectionsOf(site, config)] as const;
    return {
      neuroada_values: { shape, trainable: true, init: () => new Float32Array(shape[0] * shape[1]) },
      neuroada_columns: {
        shape,
        dtype: "int32",
        trainable: false,
        init: (context) => chooseColumns(context, config),
      },
    };
  },
  weight: (weight, { neuroada_values: values, neuroada_columns: columns }) =>
    addInRows(weight, columns as Value, values as Value),
} satisfies Method<NeuroadaConfig>;

/**
 * NeuroAda with a configuration.
 *
 * Throws `config-invalid` naming the field; `select: "gradient"` asks for a calibration with `gradient`.
 *
 * @example
 * ```ts
 * import { neuroada } from "tunesmith/methods";
 * const adaptation = neuroada({ connections: 4, targets: "all-linear" });
 * ```
 */
export const neuroada = (config: z.input<typeof schema> = {}): Adaptation<NeuroadaConfig> => ({
  method: neuroadaMethod,
  config: parseConfig("neuroada", schema, config),
});
