import { ops, type Value } from "../../graph/index.js";
import type { SiteCall, SiteShape, TensorValues } from "../method.js";
import { loraScale, type ScaleConfig } from "./scale.js";

/** What methods have in common whose adapter is plain LoRA once it is trained: s·B·A. */
export const plainUpdate = {
  additive: () => true,
  weight: (
    weight: Value,
    { lora_A: a, lora_B: b }: TensorValues,
    site: SiteShape,
    config: ScaleConfig,
  ): Value => ops.gemm(b as Value, a as Value, weight, { alpha: loraScale(site.path, config).scale }),
  lowRank: (_: unknown, { lora_A: a, lora_B: b }: TensorValues, site: SiteShape, config: ScaleConfig) => ({
    a: a as Value,
    b: ops.mul(b as Value, loraScale(site.path, config).scale),
  }),
};

/** y + s·B·h, as far as the adapter is on. */
export const ontoOutput = ({ y, gate, site, tensors, mix }: SiteCall, h: Value, config: ScaleConfig): Value =>
  mix(ops.mul(h, gate), tensors.lora_B as Value, { onto: y, alpha: loraScale(site.path, config).scale });
