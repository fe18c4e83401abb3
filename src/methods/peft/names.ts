import type { Adapter } from "../adapter.js";

/** Every PEFT tensor name starts so; names without it are silently ignored by the reference, and refused here. */
export const PREFIX = "base_model.model.";

const SUFFIX: Readonly<Record<string, string>> = {
  lora_A: "lora_A.weight",
  lora_B: "lora_B.weight",
  lora_bias: "lora_B.bias",
  lora_embedding_A: "lora_embedding_A",
  lora_embedding_B: "lora_embedding_B",
  lora_magnitude_vector: "lora_magnitude_vector",
};

/** Name in a PEFT file of a site's tensor; undefined for frozen helpers. */
export const siteTensorName = (path: string, key: string): string | undefined => {
  const suffix = SUFFIX[key];
  return suffix && `${PREFIX}${path}.${suffix}`;
};

/** Names in a PEFT file by parameter name; frozen helper tensors (A0, B0) have none. */
export function peftNames(adapter: Adapter): Map<string, string> {
  const names = new Map<string, string>();
  for (const [path, site] of adapter.sites) {
    for (const [key, entry] of Object.entries(site.tensors)) {
      const name = siteTensorName(path, key);
      if (name) names.set(entry.name, name);
    }
  }
  for (const { path, leaf, parameter } of adapter.saved) {
    const inside = adapter.sites.has(path) ? "base_layer." : "";
    names.set(parameter.name, `${PREFIX}${path}.${inside}${leaf}`);
  }
  for (const { path, parameter } of adapter.tokens) {
    names.set(parameter.name, `${PREFIX}${path}.token_adapter.trainable_tokens_delta`);
  }
  return names;
}
