import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(4).describe("rank r of the update"),
  vectors: z.number().int().positive().default(256).describe("vectors h of the bank that all modules share"),
  vectorLength: z
    .number()
    .int()
    .positive()
    .default(256)
    .describe("length b of a vector; divides both sides of every module"),
  topK: z.number().int().positive().default(2).describe("vectors that a piece of a factor is mixed from"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  bankBound: z
    .number()
    .positive()
    .default(0.02)
    .describe("the bank starts uniform between plus and minus this"),
  logitStd: z.number().positive().default(0.1).describe("standard deviation of the logits at the start"),
});

/** Configuration of VB-LoRA, after defaults. */
export type VbloraConfig = z.infer<typeof schema>;

function tensors(site: SiteShape, config: VbloraConfig): Record<string, TensorSpec> {
  const { path, inFeatures, outFeatures } = site;
  const { vectorLength: length, vectors, rank } = config;
  if (inFeatures % length !== 0 || outFeatures % length !== 0) {
    throw new TunesmithError(
      "config-invalid",
      `vectorLength: ${length} does not divide both sides of ${path}, ${outFeatures} x ${inFeatures}`,
      { fix: "choose a common divisor", details: { path } },
    );
  }
  const logits = (shape: readonly number[]): TensorSpec => ({
    shape,
    trainable: true,
    init: ({ normal }) =>
      normal(
        shape.reduce((a, b) => a * b, 1),
        config.logitStd,
      ),
  });
  return {
    vblora_logits_A: logits([rank, inFeatures / length, vectors]),
    vblora_logits_B: logits([outFeatures / length, rank, vectors]),
  };
}

/** Pieces `[…, b]`: the vectors of the largest logits `[…, h]`, mixed by the softmax of these. */
function mixed(logits: Value, bank: Value, k: number): Value {
  const { values, indices } = ops.topK(logits, k);
  const weights = ops.unsqueeze(ops.softmax(values), -1);
  return ops.reduceSum(ops.mul(weights, ops.gather(bank, indices)), [-2], false);
}

/** A `[r, in]` and B `[out, r]`. */
function factors(
  values: TensorValues,
  site: SiteShape,
  { rank, topK }: VbloraConfig,
): { a: Value; b: Value } {
  const bank = values.vblora_vector_bank as Value;
  const a = mixed(values.vblora_logits_A as Value, bank, topK);
  const b = mixed(values.vblora_logits_B as Value, bank, topK);
  return {
    a: ops.reshape(a, [rank, site.inFeatures]),
    b: ops.reshape(ops.transpose(b, [0, 2, 1]), [site.outFeatures, rank]),
  };
}

/**
 * VB-LoRA (arXiv 2405.15179): W' = W + B·A, both put together from vectors of one bank. It starts near the base, not as
 * it: with a bank of zeros nothing would get a gradient.
 */
export const vbloraMethod = {
  name: "vblora",
  summary: "factors put together from one bank of vectors that all modules share",
  paper: "2405.15179",
  schema,
  kinds: ["linear"],
  shared: (_, { vectors, vectorLength, bankBound }) => ({
    vblora_vector_bank: {
      shape: [vectors, vectorLength],
      trainable: true,
      init: ({ uniform }) => uniform(vectors * vectorLength, -bankBound, bankBound),
    },
  }),
  tensors,
  additive: () => true,
  weight(weight, values, site, config) {
    const { a, b } = factors(values, site, config);
    return ops.gemm(b, a, weight);
  },
  forward({ x, y, gate, apply, mix, dropped, site, tensors: values }, config) {
    const { a, b } = factors(values, site, config);
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    return mix(ops.mul(apply(input, a), gate), b, { onto: y });
  },
} satisfies Method<VbloraConfig>;

/**
 * VB-LoRA with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does adapting a weight that the vectors' length does not divide.
 *
 * @example
 * ```ts
 * import { vblora } from "tunesmith/methods";
 * const adaptation = vblora({ vectors: 90, vectorLength: 64, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const vblora = (config: z.input<typeof schema> = {}): Adaptation<VbloraConfig> => ({
  method: vbloraMethod,
  config: parseConfig("vblora", schema, config),
});
