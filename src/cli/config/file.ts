import { parse } from "yaml";
import { readText } from "#io";
import { TunesmithError } from "../../errors/index.js";

/** Reads a YAML or JSON configuration file. Throws `file-not-found`, `config-invalid`. */
export async function readConfigFile(path: string): Promise<Record<string, unknown>> {
  const text = await readText(path);
  let value: unknown;
  try {
    // JSON is YAML.
    value = parse(text);
  } catch (cause) {
    const line = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw new TunesmithError("config-invalid", `${path}: ${line}`, {
      cause,
      fix: "correct the YAML or JSON",
    });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw new TunesmithError("config-invalid", `${path} does not hold a mapping of options`, {
    fix: "write one 'key: value' per line, for example 'rank: 8'",
  });
}
