import type { Adapter } from "../adapter.js";
import type { SiteShape } from "../method.js";
import type { PeftMapping } from "./mapping.js";
import { mappingOf } from "./mappings.js";

/** Every PEFT tensor name starts so; names without it are silently ignored by the reference, and refused here. */
export const PREFIX = "base_model.model.";

/** Name in a PEFT file of a site's tensor, or of a shared one; undefined for what is not written. */
export function tensorName(
  mapping: PeftMapping,
  site: SiteShape | undefined,
  key: string,
): string | undefined {
  if (!site) return mapping.sharedName?.(key);
  const suffix = mapping.suffix(key, site);
  return suffix && `${PREFIX}${site.path}.${suffix}`;
}

/** Paths of the modules that a method's targets selected. */
export const targetPaths = ({ sites, saved }: Adapter): string[] => [
  ...new Set([...sites.keys(), ...saved.flatMap(({ path, isOwn }) => (isOwn ? [path] : []))]),
];

/** Names in a PEFT file by parameter name; helper tensors have none. */
export function peftNames(adapter: Adapter): Map<string, string> {
  const mapping = mappingOf(adapter.adaptation.method);
  const names = new Map<string, string>();
  const put = (parameterName: string, name: string | undefined) => {
    // A tensor that several modules share goes by the first of its names.
    if (name && !names.has(parameterName)) names.set(parameterName, name);
  };
  for (const [key, entry] of Object.entries(adapter.shared))
    put(entry.name, tensorName(mapping, undefined, key));
  for (const site of adapter.sites.values())
    for (const [key, entry] of Object.entries(site.tensors))
      put(entry.name, tensorName(mapping, site.shape, key));
  for (const { path, leaf, parameter, isOwn } of adapter.saved) {
    const inside = adapter.sites.has(path) ? "base_layer." : "";
    const suffix = (isOwn ? mapping.wholeSuffix?.(leaf) : undefined) ?? `${inside}${leaf}`;
    names.set(parameter.name, `${PREFIX}${path}.${suffix}`);
  }
  for (const { path, parameter } of adapter.tokens) {
    names.set(parameter.name, `${PREFIX}${path}.token_adapter.trainable_tokens_delta`);
  }
  return names;
}
