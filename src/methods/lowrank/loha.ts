import type { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { addDropped, coreProduct, drops, hasTapFactors, lycorisSchema, tapsOf } from "./lycoris.js";
import { loraScale } from "./scale.js";

const schema = lycorisSchema;

/** Configuration of LoHa, after defaults. */
export type LohaConfig = z.infer<typeof schema>;

/** Kaiming's uniform start with a = √5: ±1/√(numbers a row has); the last factor starts at zero. */
const factor = (shape: readonly number[], isZero = false): TensorSpec => {
  const count = shape.reduce((a, b) => a * b, 1);
  const bound = 1 / Math.sqrt(count / (shape[0] as number));
  return {
    shape,
    trainable: true,
    init: (context: InitContext) =>
      isZero ? new Float32Array(count) : context.uniform(count, -bound, bound),
  };
};

function tensors(site: SiteShape, config: LohaConfig): Record<string, TensorSpec> {
  const { rank } = loraScale(site.path, config);
  const { outFeatures, inFeatures } = site;
  if (!hasTapFactors(site, config)) {
    return {
      hada_w1_a: factor([outFeatures, rank]),
      hada_w1_b: factor([rank, inFeatures]),
      hada_w2_a: factor([outFeatures, rank]),
      hada_w2_b: factor([rank, inFeatures], true),
    };
  }
  const channels = inFeatures / tapsOf(site);
  return {
    hada_t1: factor([rank, rank, tapsOf(site)]),
    hada_w1_a: factor([rank, outFeatures]),
    hada_w1_b: factor([rank, channels]),
    hada_t2: factor([rank, rank, tapsOf(site)]),
    hada_w2_a: factor([rank, outFeatures]),
    hada_w2_b: factor([rank, channels], true),
  };
}

/** (α/r)·(w1a·w1b) ∘ (w2a·w2b), `[out, in]`. */
function delta(values: TensorValues, site: SiteShape, config: LohaConfig): Value {
  const product = (name: string, core: Value | undefined): Value => {
    const [a, b] = [values[`${name}_a`] as Value, values[`${name}_b`] as Value];
    return core ? coreProduct(core, a, b) : ops.matmul(a, b);
  };
  const both = ops.mul(product("hada_w1", values.hada_t1), product("hada_w2", values.hada_t2));
  return ops.mul(both, loraScale(site.path, config).scale);
}

/** LoHa (arXiv 2108.06098): W' = W + (α/r)·(w1a·w1b) ∘ (w2a·w2b), an update of rank up to r² from 2r·(in + out) numbers. */
export const lohaMethod = {
  name: "loha",
  summary: "elementwise product of two low-rank updates",
  paper: "2108.06098",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  additive: () => true,
  weight: (weight, values, site, config) => ops.add(weight, delta(values, site, config)),
  forward(call, config) {
    if (!drops(call, config)) return undefined;
    return addDropped(call, call.apply(call.x, delta(call.tensors, call.site, config)), config, true);
  },
} satisfies Method<LohaConfig>;

/**
 * LoHa with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { loha } from "tunesmith/methods";
 * const adaptation = loha({ rank: 4, alpha: 8, targets: "all-linear" });
 * ```
 */
export const loha = (config: z.input<typeof schema> = {}): Adaptation<LohaConfig> => ({
  method: lohaMethod,
  config: parseConfig("loha", schema, config),
});
