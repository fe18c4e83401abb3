import type { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method } from "../method.js";

/** Names of the value projection in the architectures there are. */
const VALUES = /^(.*\.)?(v_proj|value|v_lin|value_proj|v)$/.source;

const schema = siteConfigSchema.extend({
  targets: siteConfigSchema.shape.targets
    .unwrap()
    .default(VALUES)
    .describe("modules to adapt: name endings (list), a regular expression (string), or all-linear"),
});

/** Configuration of BEFT, after defaults. */
export type BeftConfig = z.infer<typeof schema>;

/** BEFT (arXiv 2509.15974): y' = y + b, by default at the value projections alone. A map without a bias gets one. */
export const beftMethod = {
  name: "beft",
  summary: "additions to the biases of the value projections",
  paper: "2509.15974",
  schema,
  kinds: ["linear"],
  tensors: ({ outFeatures }) => ({
    beft_bias: { shape: [outFeatures], trainable: true, init: () => new Float32Array(outFeatures) },
  }),
  weight: (weight) => weight,
  biasDelta: ({ beft_bias: added }) => added,
  forward: ({ y, gate, perFeature, tensors: { beft_bias: added } }) =>
    ops.add(y, ops.mul(perFeature(added as Value), gate)),
} satisfies Method<BeftConfig>;

/**
 * BEFT with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { beft } from "tunesmith/methods";
 * const values = beft();
 * const queries = beft({ targets: ["q_proj"] });
 * ```
 */
export const beft = (config: z.input<typeof schema> = {}): Adaptation<BeftConfig> => ({
  method: beftMethod,
  config: parseConfig("beft", schema, config),
});
