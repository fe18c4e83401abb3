import { parse } from "yaml";
import { TunesmithError } from "../../errors/index.js";

/** What a configuration is before its schema has seen it. */
export type Mapping = Readonly<Record<string, unknown>>;

export const isMapping = (value: unknown): value is Mapping =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** `over` on `base`: mappings are merged key by key, everything else (lists too) is replaced. */
export function mergeMappings(base: Mapping, over: Mapping): Mapping {
  const entries = Object.entries(over).map(([key, value]) => {
    const below = Object.hasOwn(base, key) ? base[key] : undefined;
    return [key, isMapping(below) && isMapping(value) ? mergeMappings(below, value) : value] as const;
  });
  return { ...base, ...Object.fromEntries(entries) };
}

/**
 * `--set` texts as a mapping: `lr=1e-3`, `targets=[q_proj, v_proj]`, `rankPattern.q_proj=4`. A value is read as a YAML
 * file would be. Throws `config-invalid`.
 */
export function parseOverrides(texts: readonly string[]): Mapping {
  return texts.map(parseOverride).reduce(mergeMappings, {});
}

function parseOverride(text: string): Mapping {
  const [, path, written] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
  const keys = path?.split(".").map((key) => key.trim()) ?? [];
  if (written === undefined || keys.includes("")) {
    throw new TunesmithError("config-invalid", `--set ${text}: this is not key=value`, {
      fix: "for example --set rank=8, or --set rankPattern.q_proj=4",
    });
  }
  let value: unknown;
  try {
    value = parse(written);
  } catch (cause) {
    throw new TunesmithError("config-invalid", `--set ${text}: the value is not YAML`, {
      cause,
      fix: "quote it, for example --set 'stop=\"a: b\"'",
    });
  }
  return keys.reduceRight((inner, key) => Object.fromEntries([[key, inner]]), value) as Mapping;
}
