import { type BeftConfig, beftMethod } from "../whole/beft.js";
import { type LnTuningConfig, lnTuningMethod } from "../whole/ln-tuning.js";
import type { PeftMapping } from "./mapping.js";

/** LN tuning; files hold the norms themselves. */
export const lnTuningMapping: PeftMapping<LnTuningConfig> = {
  peftType: "LN_TUNING",
  method: lnTuningMethod,
  options: () => ({}),
  config: () => ({}),
  suffix: (key) => key,
  wholeSuffix: (leaf) => `ln_tuning_layers.${leaf}`,
};

/** BEFT. */
export const beftMapping: PeftMapping<BeftConfig> = {
  peftType: "BEFT",
  method: beftMethod,
  options: () => ({}),
  config: () => ({ init_weights: true }),
  suffix: (key) => key,
  fileShape: (_, __, [size]) => [1, size as number],
};
