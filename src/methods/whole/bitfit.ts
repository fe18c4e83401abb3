import type { z } from "zod";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method } from "../method.js";

const schema = siteConfigSchema;

/** Configuration of BitFit, after defaults. */
export type BitfitConfig = z.infer<typeof schema>;

/**
 * BitFit (arXiv 2106.10199): the biases that the model has are trained, its weights are not. The paper's smaller variant
 * trains those of the queries and of the first map of every MLP: name them in `targets`.
 */
export const bitfitMethod = {
  name: "bitfit",
  summary: "the model's biases, trained as they are",
  paper: "2106.10199",
  schema,
  kinds: [],
  whole: { of: "bias", takes: ({ leaf }) => leaf === "bias" },
  tensors: () => ({}),
  weight: (weight) => weight,
} satisfies Method<BitfitConfig>;

/**
 * BitFit with a configuration; `targets` are the modules whose biases are trained, default all. A model without biases
 * (Llama) is refused with `target-not-found`: `beft` gives it some.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { bitfit } from "tunesmith/methods";
 * const all = bitfit();
 * const some = bitfit({ targets: ["query", "intermediate.dense"] });
 * ```
 */
export const bitfit = (config: z.input<typeof schema> = {}): Adaptation<BitfitConfig> => ({
  method: bitfitMethod,
  config: parseConfig("bitfit", schema, config),
});
