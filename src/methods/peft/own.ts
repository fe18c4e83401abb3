import { siteConfigSchema } from "../config.js";

/** `peft_type` of adapters in our own format: PEFT's folder with our names, for what PEFT does not have. */
export const OWN = "TUNESMITH";

/** A method's own part of adapter_config.json in our own format. */
export function ownConfig(method: string, config: Readonly<Record<string, unknown>>) {
  const common = new Set(Object.keys(siteConfigSchema.shape));
  const options = Object.fromEntries(Object.entries(config).filter(([key]) => !common.has(key)));
  return { peft_type: OWN, method, options };
}
