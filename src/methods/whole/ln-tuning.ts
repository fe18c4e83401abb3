import type { z } from "zod";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method } from "../method.js";

const schema = siteConfigSchema;

/** Configuration of LN tuning, after defaults. */
export type LnTuningConfig = z.infer<typeof schema>;

/**
 * LN tuning (arXiv 2312.11420): the scales and shifts of the norms are trained as they are. Modules that `targets` names are
 * trained whole whatever they are, as in PEFT; running statistics never are.
 */
export const lnTuningMethod = {
  name: "ln-tuning",
  summary: "scales and shifts of the norms, trained as they are",
  paper: "2312.11420",
  schema,
  kinds: [],
  whole: {
    of: "norm",
    takes: ({ isNorm, leaf }, { targets }) =>
      (isNorm || targets !== undefined) && !leaf.startsWith("running_"),
  },
  tensors: () => ({}),
  weight: (weight) => weight,
} satisfies Method<LnTuningConfig>;

/**
 * LN tuning with a configuration; `targets` are norms, default all.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { lnTuning } from "tunesmith/methods";
 * const adaptation = lnTuning({ targets: ["input_layernorm", "post_attention_layernorm"] });
 * ```
 */
export const lnTuning = (config: z.input<typeof schema> = {}): Adaptation<LnTuningConfig> => ({
  method: lnTuningMethod,
  config: parseConfig("ln-tuning", schema, config),
});
